"""What notebook cells call: metrics, self-checks, checksums, the machine, figures."""

import os
import re
import subprocess
import sys
import time
import warnings
from itertools import pairwise

import nbformat
import numpy as np
import psutil
import pytest

from helpers.course.checksums import read_checksums, sha256, verify_checksums, weights_fingerprint, write_checksums
from helpers.course.errors import InputError
from helpers.course.exercises import ExerciseHint, check
from helpers.course.fonts import font_face
from helpers.course.lessons import find_lessons
from helpers.course.machine import detect_machine, gpu_class, measure, peak_memory_mb, set_seed, tree_memory_mb
from helpers.course.paths import REPOSITORY
from helpers.course.plots import bar_figure, histogram_figure, line_figure, similarity_figure, use_course_style
from helpers.course.records import METRICS_MIME, read_records, record


def notebook_with(folder, *bundles):
    outputs = [nbformat.v4.new_output("display_data", data={METRICS_MIME: bundle}) for bundle in bundles]
    cells = [nbformat.v4.new_code_cell("", outputs=[output]) for output in outputs]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "a.ipynb")
    return folder / "a.ipynb"


def test_records_of_all_cells_are_read_and_a_later_one_wins(tmp_path):
    path = notebook_with(tmp_path, {"before": 0.5, "name": "적금"}, {"before": 0.6, "after": 1})
    assert read_records(path) == {"before": 0.6, "name": "적금", "after": 1}


def test_records_outside_a_notebook_are_printed(capsys):
    record(spearman=np.float32(0.5), steps=np.int64(3), name="적금")
    assert capsys.readouterr().out == "spearman: 0.5\nsteps: 3\nname: 적금\n"


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array([]), [1], None, float("nan"), 1j])
def test_what_is_no_metric_is_named(value):
    with pytest.raises(InputError, match=r"where: +metric x"):
        record(x=value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": 3}'])
def test_records_of_no_notebook(tmp_path, content):
    (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(InputError, match="no notebook"):
        read_records(tmp_path / "a.ipynb")
    with pytest.raises(InputError, match="does not exist"):
        read_records(tmp_path / "b.ipynb")


def test_check_passes_with_a_tick_and_answers_with_the_hint(capsys, monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    check("temperature", np.bool_(True), "divide before the softmax")
    assert capsys.readouterr().out == "✔ temperature\n"
    check("temperature", np.bool_(False), "divide before the softmax")  # a learner's: the lesson goes on
    assert capsys.readouterr().out == "✘ temperature: not yet. Hint: divide before the softmax\n"
    monkeypatch.setenv("COURSE_STRICT", "1")  # ours must be right
    with pytest.raises(ExerciseHint, match=r"temperature: not yet\. Hint: divide before the softmax"):
        check("temperature", False, "divide before the softmax")
    assert issubclass(ExerciseHint, AssertionError)


@pytest.mark.parametrize("lesson", find_lessons(), ids=lambda lesson: lesson.name)
def test_an_exercise_gives_nothing_away(lesson):
    """What is given ends in an invitation; the call that answers it stands below, folded."""
    cells = lesson.notebook.cells
    given = [n for n, cell in enumerate(cells) if re.search(r"^# .*\byours\b", cell.source.split("\n")[-1])]
    answers = [n for n, cell in enumerate(cells) if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert len(given) == 3 and answers == [n + 1 for n in given]
    for n in given:
        called = re.findall(r"\b(check\w*)\(", cells[n].source.split("\n")[-1])
        assert called and f"def {called[0]}(" in cells[n].source and f"{called[0]}(" in cells[n + 1].source
        assert not cells[n].outputs and not re.search(rf"^{called[0]}\(", cells[n].source, re.MULTILINE)


@pytest.mark.parametrize("lesson", find_lessons(), ids=lambda lesson: lesson.name)
def test_what_the_prose_sets_is_a_parameter_of_the_lesson(lesson):
    """A reader who copies ``-p NAME`` out of a lesson must not meet a refusal."""
    cells = lesson.notebook.cells
    parameters = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    named = set(re.findall(r"(?<![\w-])-p (\w+)", prose))
    assert named <= set(re.findall(r"^(\w+) = ", parameters, re.MULTILINE))


def test_checksums_cover_every_file_and_can_be_checked_by_sha256sum(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.bin").write_bytes(b"abc")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "b.bin").write_bytes(b"x")
    sums = write_checksums(tmp_path)
    verify_checksums(tmp_path)
    assert read_checksums(tmp_path)["part/a.bin"].startswith("ba7816bf8f01cfea")
    assert sums.read_text().splitlines()[0].endswith("  model.safetensors")
    assert len(read_checksums(tmp_path)) == 2
    write_checksums(tmp_path)
    assert len(read_checksums(tmp_path)) == 2


@pytest.mark.parametrize("number", [0, 50, 99])
def test_one_changed_bit_is_found(tmp_path, number):
    data = bytearray(100)
    (tmp_path / "a.bin").write_bytes(data)
    write_checksums(tmp_path)
    data[number] ^= 1
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(InputError, match="its checksum does not match"):
        verify_checksums(tmp_path)


@pytest.mark.parametrize(
    ("memory", "capability", "expected"),
    [
        (None, None, "none"),
        (14.7, (7, 5), "t4"),
        (22.0, (8, 9), "t4"),
        (8.0, (8, 6), "none"),
        (11.9, (8, 6), "none"),
        (39.5, (8, 0), "a100"),
        (79.0, (9, 0), "a100"),
        (47.5, (7, 5), "t4"),
    ],
)
def test_gpu_classes(memory, capability, expected):
    assert gpu_class(memory, capability) == expected


def test_two_models_without_safetensors_are_not_the_same(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(InputError, match="no weights as safetensors"):
        weights_fingerprint(tmp_path)
    assert weights_fingerprint("owner/model") == "owner/model"


def test_weights_are_read_once_for_their_fingerprint_until_they_change(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("helpers.course.checksums.sha256", lambda path: read.append(path) or sha256(path))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = weights_fingerprint(tmp_path)
    assert weights_fingerprint(tmp_path) == first == sha256(weights)[:16] and read == [weights]
    weights.write_bytes(b"two")
    os.utime(weights, ns=(0, 0))  # whatever the clock's step is
    assert weights_fingerprint(tmp_path) == sha256(weights)[:16] != first and len(read) == 2


def test_machine_is_described():
    machine = detect_machine()
    assert machine.cores >= 1
    assert 0 < machine.memory_gb < 1e5
    assert machine.profile == ("cpu" if machine.gpu_class == "none" else machine.gpu_class)


def test_measure_sees_time_and_memory_that_was_given_back():
    with measure() as outer:
        with measure() as inner:
            block = np.ones(25_000_000)
            time.sleep(0.1)
            del block
        time.sleep(0.05)
    assert 0.1 <= inner.seconds < outer.seconds
    assert 180 < inner.added_mb < 600
    assert outer.peak_mb >= inner.peak_mb > tree_memory_mb(psutil.Process()) + 100
    beside = tree_memory_mb(psutil.Process(), children_only=True)  # what another test may have left running
    assert peak_memory_mb() >= inner.peak_mb - beside - 5


def test_a_spike_between_two_samples_is_seen_and_an_earlier_one_is_not():
    spike = b"x" * 300_000_000
    del spike
    with measure(every=60) as later:
        pass
    assert later.added_mb < 100
    with measure(every=60) as taken:
        spike = b"x" * 300_000_000
        del spike
    assert taken.added_mb > 250


def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    program = "from helpers.course.machine import peak_memory_mb; print(peak_memory_mb())"
    held = b"x" * 600_000_000
    told = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert 10 < float(told.stdout) < 300 < len(held) / 2**20


def test_set_seed_repeats_every_draw():
    import random

    import torch

    def draw():
        set_seed(5)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


def test_every_korean_glyph_of_a_figure_is_drawn():
    use_course_style()
    labels = ["오늘 날씨 어때?", "적금 이자율", "뷁 똠방각하"]
    figures = [
        line_figure({"손실": ([1, 2, 3], [3, -2, 1])}, "학습 곡선 − 온도", "단계", "손실"),
        bar_figure({"학습 전": 0.5, "학습 후": 0.7}, "스피어만 상관", "점수", errors=[0.1, 0.1]),
        histogram_figure({"짧은 글": [1, 2, 2], "긴 글": [5, 6, 6]}, "길이", "음절 수"),
        similarity_figure(np.eye(3), labels, labels, "유사도"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that its fonts lack
        for figure in figures:
            figure.canvas.draw()
            assert figure.canvas.get_width_height() <= (620, 400)


def test_long_names_of_bars_do_not_touch():
    use_course_style()
    figure = bar_figure({"BM25": 0.7, "a_model_with_a_long_name": 0.5, "a_model_with_a_long_name + BM25": 0.6}, "", "")
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_bars_have_one_colour_and_groups_one_each():
    def colours(figure):
        return [bar.get_facecolor() for bar in figure.axes[0].containers[-1]]

    plain = bar_figure({"a": 1, "b": 2}, "", "")
    assert len(set(colours(plain))) == 1 and plain.axes[0].get_legend() is None
    grouped = bar_figure({"a": 1, "b": 2, "c": 3}, "", "", groups=["before", "after", "before"])
    first, second, third = colours(grouped)
    assert first == third != second
    legend = grouped.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["before", "after"]
    assert [handle.get_facecolor() for handle in legend.legend_handles] == [first, second]
    with pytest.raises(ValueError, match="2 bars"):
        bar_figure({"a": 1, "b": 2}, "", "", groups=["before"])


def test_a_bar_says_no_more_digits_than_mean_something():
    figure = bar_figure({"score": 0.63512, "ms": 42.138, "rows": 1044.127}, "", "")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.635", "42.1", "1,044"]


def test_ticks_stand_where_something_was_measured():
    steps, depths, names = ([1, 2, 3], [1, 2, 3]), ([1, 3, 10], [1, 2, 3]), (["0.1", "b"], [1, 2])
    assert all(float(tick).is_integer() for tick in line_figure({"": steps}, "", "", "").axes[0].get_xticks())
    assert list(line_figure({"": depths}, "", "", "", log_x=True).axes[0].get_xticks()) == depths[0]
    assert len(line_figure({"": names}, "", "", "").axes[0].get_xticks()) == 2


def test_the_font_of_a_page_has_the_letters_that_it_needs_and_no_more(caplog):
    assert font_face("only latin") == ""
    short, long = font_face("한글"), font_face("한글로 쓴 조금 더 긴 문장입니다")
    assert 500 < len(short) < len(long) < 20_000
    assert caplog.records == []


def test_outlines_hide_nothing_and_tell_their_means():
    [axes] = histogram_figure({"앞": [0.0, 0.2], "뒤": [0.4, 0.4]}, "간격", "코사인", bins=4, outlines=True).axes
    assert all(not patch.get_fill() for patch in axes.patches)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["앞, mean +0.100", "뒤, mean +0.400"]

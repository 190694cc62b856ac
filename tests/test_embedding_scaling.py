"""Several processes: what they are dealt, how they are started, what accelerate makes of a launch file."""

import numpy as np
import pytest
import torch

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY
from helpers.course.launch import launch_plan, torchrun
from helpers.data.retrieval import read_beir
from helpers.embedding.distributed.figures import agreement_figure, seen_by_loss
from helpers.embedding.distributed.scaling import ScalingSettings, compared, share_of
from helpers.embedding.encoder import Encoder
from helpers.embedding.infonce import command as contrastive_command


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return ScalingSettings.load(smoke=True, output_dir=tmp_path_factory.mktemp("scaling"))


def test_rows_are_dealt_out_once_and_share_no_text(settings):
    rows = settings.shared_rows()
    parts = [share_of(rows, rank, 3) for rank in range(3)]
    assert [text for part in parts for text in part.queries] == rows.queries and len(parts[0]) == len(rows) // 3
    assert len(set(rows.queries) | set(rows.documents)) == 2 * len(rows) == 2 * settings.batch_size
    assert all(len(texts) == settings.hard_negatives for texts in rows.negatives)
    with pytest.raises(InputError, match="a multiple of 5"):
        settings.changed(processes=5).shared_rows()


def test_the_training_set_of_the_lesson_is_read_back(settings):
    folder = settings.distinct_set()
    own = settings.changed(data_dir=folder.parent, train_set=folder.name, e5_files=[])
    rows = own.training_rows()
    assert len(rows) == settings.train_batch_size * settings.processes * settings.train_steps
    assert len(set(rows.queries) | set(rows.documents)) == 2 * len(rows)


@pytest.mark.parametrize("count, size", [(2, 4), (3, 2)])
def test_figure_shows_the_negatives_that_a_query_has(count, size):
    alone, gathered = (seen_by_loss(count, size, gathered=each) for each in (False, True))
    assert ((alone == 2).sum(1) == size - 1).all() and ((gathered >= 2).sum(1) == count * size - 1).all()
    assert (np.diag(gathered) == 1).all() and (gathered == 3).sum() == (alone == 0).sum()


def test_no_power_of_ten_stands_in_a_title_of_the_agreement_figure():
    figure = agreement_figure([0.03, -0.02], {"gathered": [0.03, -0.02], "cut": [0.15, -0.1]})
    figure.canvas.draw()
    assert [axis.get_offset_text().get_text() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)] == [""] * 4


def test_a_profile_changes_the_sizes_and_has_rows_enough(tmp_path):
    sizes = {}
    for profile in ("cpu", "t4", "a100"):
        own = ScalingSettings.load(profile=profile, output_dir=tmp_path / profile)
        sizes[profile] = (len(own.shared_rows()), len(read_beir(own.distinct_set()).queries))
        assert sizes[profile][0] == own.batch_size
        assert sizes[profile][1] == own.train_batch_size * own.processes * own.train_steps
    assert sizes["cpu"] < sizes["t4"] < sizes["a100"]


def test_comparison_tells_length_from_direction():
    right = torch.tensor([3.0, 4.0])
    assert compared(right / 2, right) == pytest.approx({"error": 0.5, "cosine": 1.0, "length": 0.5})
    assert compared(torch.tensor([4.0, -3.0]), right)["cosine"] == pytest.approx(0)
    assert compared(-right, right) == pytest.approx({"error": 2.0, "cosine": -1.0, "length": 1.0})


def test_the_model_without_dropout_draws_nothing(settings):
    encoder = Encoder.load(settings.model_without_dropout()).train()
    assert torch.equal(*(encoder(*encoder.pad(encoder.tokenize(["비가 온다."]))) for _ in range(2)))
    other = Encoder.load(settings.model).train()
    assert not torch.equal(*(other(*other.pad(other.tokenize(["비가 온다."]))) for _ in range(2)))


def test_torchrun_starts_that_many_and_tells_why_one_failed():
    assert torchrun(2, "calendar", ["2026", "11"]).count("November 2026") == 2
    with pytest.raises(RuntimeError, match="IndexError: list index"):
        torchrun(2, "calendar", ["2026", "13"])


def test_accelerate_reads_the_launch_files(tmp_path):
    folder = REPOSITORY / "config/accelerate"
    first, second = (launch_plan(folder / "two_machines.yaml", rank, "a.module") for rank in (0, 1))
    assert first["nproc_per_node"] == "4" and first["nnodes"] == "2" and first["mixed_precision"] == "bf16"
    assert (first.pop("node_rank"), second.pop("node_rank")) == (0, 1) and first == second
    assert launch_plan(folder / "one_machine.yaml", 0, "a.module")["nproc_per_node"] == "2"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((folder / "one_machine.yaml").read_text().replace("num_processes", "num_proceses"))
    with pytest.raises(InputError, match="num_proceses"):
        launch_plan(wrong, 0, "a.module")


def test_wrong_input_of_the_command_is_told_and_ends_with_status_2(capsys):
    assert contrastive_command.main(["-p", "batch_size", "1"]) == 2
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize("name", contrastive_command.NOT_READ)
def test_the_command_refuses_what_it_does_not_read(name, capsys, monkeypatch):
    monkeypatch.setattr(contrastive_command, "run", lambda settings: pytest.fail("it trained"))
    value = {"compare_batches": "false", "true_batch": "false", "group_size": "4", "max_queries": "5"}.get(
        name, "retrieval/hansol"
    )
    assert contrastive_command.main(["-p", name, value]) == 2
    assert f"-p {name}" in capsys.readouterr().err

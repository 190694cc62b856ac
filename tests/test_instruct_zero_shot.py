"""The evaluation from rows to results: prompts, constrained choice, free answers, and what a result says of itself."""

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, sample_data
from helpers.course.rejects import Rejects
from helpers.data.benchmarks import BENCHMARKS, read_benchmark
from helpers.instruct.choosing import LabelChoice
from helpers.instruct.generation import generate_ids
from helpers.instruct.prompts import Prompt
from helpers.instruct.scoring.backends import TransformersBackend
from helpers.instruct.scoring.figures import habit_figure, interval_figure
from helpers.instruct.scoring.likelihood import naive_likelihoods
from helpers.instruct.scoring.questions import TASKS, task_named
from helpers.instruct.scoring.shared_beginnings import shared_prefix
from helpers.instruct.zero_shot import (
    WAYS,
    ZeroShotSettings,
    evaluate,
    published_table,
    read_tables,
    result_table,
    save_results,
)


@pytest.fixture(scope="module")
def prompt():
    return Prompt.for_tokenizer(AutoTokenizer.from_pretrained(sample_data("models", "ko-mini-mistral")))


@pytest.fixture(scope="module")
def model(prompt):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(prompt.tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        sliding_window=None,
        initializer_range=0.3,
    )
    return MistralForCausalLM(config).eval()


@pytest.fixture(scope="module")
def backend(model, prompt):
    return TransformersBackend(model, prompt, name="tiny", batch_size=5, batch_tokens=256)


@pytest.fixture(scope="module")
def settings():
    return ZeroShotSettings.load(draws=100, max_new_tokens=3)


@pytest.mark.parametrize("name", TASKS)
def test_every_set_is_asked_in_three_ways_that_hold_its_texts(name, prompt):
    task, table = TASKS[name], read_benchmark(name, sample_data("zero_shot")).head(4)
    assert set(task.classes) == set(BENCHMARKS[name].classes) and len(task.phrasings) >= 3
    row = table.to_dict("records")[0]
    for phrasing in task.phrasings:
        question = task.question(row, phrasing)
        assert all(row[column] in question for column in BENCHMARKS[name].text_columns)
        assert all(word in question for word in task.words.values())
    assert shared_prefix(task.prompts(prompt, table)) > 15  # the default states the task first, once for all rows
    assert "{" not in task.content_free("N/A")


def test_label_ids_are_those_of_training(prompt):
    task = TASKS["nsmc"]
    for word, ids in zip(task.words.values(), task.label_ids(prompt), strict=True):
        example = prompt.example("이 영화 어땠어?", word)
        assert [label for label in example.labels if label != -100] == [*ids, prompt.stop_ids[0]]


def test_braces_in_a_text_are_text():
    assert "{document} {0}" in TASKS["nsmc"].question({"document": "{document} {0}"})


def test_a_task_or_phrasing_that_does_not_exist():
    with pytest.raises(InputError, match="there is no such task"):
        task_named("klue")
    with pytest.raises(InputError, match="no such phrasing"):
        TASKS["nsmc"].question({"document": "가"}, "rude")


def test_a_choice_is_always_a_label_and_left_alone_it_is_none(model, prompt):
    labels = [[70, 71], [70, 72, 73], [90]]
    prompts = [prompt.prompt_ids("가" * n) for n in (1, 9, 4)]
    free = generate_ids(model, prompt, prompts, max_new_tokens=4)
    held = generate_ids(model, prompt, prompts, max_new_tokens=1, labels=labels, batch_size=2)
    assert not any(ids[:2] in labels or ids[:3] in labels for ids in free)
    assert all([token for token in ids if token not in (prompt.eos_id, prompt.pad_id)] in labels for ids in held)


def test_a_choice_of_one_token_labels_is_the_likeliest_label(backend, model, prompt):
    labels, prompts = [[70], [90], [110]], [prompt.prompt_ids("문장 " + "나" * n) for n in range(1, 12)]
    chosen = backend.choose(prompts, ["a", "b", "c"], labels)
    assert chosen == naive_likelihoods(model, prompts, labels).argmax(1).tolist()
    assert len(set(chosen)) > 1


def test_the_processor_allows_only_what_can_become_a_label():
    choice = LabelChoice([[5], [5, 6], [7, 8]], stop_id=3, begin=2)
    allowed = lambda written: choice(torch.tensor([[1, 1, *written]]), torch.zeros(1, 10))[0].isfinite().nonzero()  # noqa: E731
    assert [allowed(w).flatten().tolist() for w in ([], [5], [5, 6], [7], [5, 3])] == [[5, 7], [3, 6], [3], [8], [3]]


def test_what_a_checkpoint_asks_of_its_generation_does_not_change_a_greedy_answer(model, prompt, monkeypatch):
    prompts = [prompt.prompt_ids("긍정 부정 " * n) for n in (1, 4, 9)]
    free = generate_ids(model, prompt, prompts, max_new_tokens=20)
    assert any(len(set(ids)) < len(ids) for ids in free)  # a penalty on what was said would change something
    read, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **told: (read.append(told["input_ids"].shape[1]), forward(*a, **told))[1]
    )
    for wish, value in (("repetition_penalty", 1.5), ("no_repeat_ngram_size", 1), ("use_cache", False)):
        monkeypatch.setattr(model.generation_config, wish, value)
    assert generate_ids(model, prompt, prompts, max_new_tokens=20) == free
    assert read[1:] == [1] * 19  # and each further step reads one token


def test_answers_do_not_depend_on_the_batch(model, prompt):
    prompts = [prompt.prompt_ids("다" * n) for n in (1, 12, 5, 7)]
    alone = [generate_ids(model, prompt, [ids], max_new_tokens=5)[0] for ids in prompts]
    assert generate_ids(model, prompt, prompts, max_new_tokens=5, batch_size=3) == alone
    assert len({tuple(ids) for ids in alone}) > 1


def test_a_result_says_all_that_it_rests_on(backend, settings, tmp_path):
    table = read_benchmark("nsmc", sample_data("zero_shot")).head(10)
    results = evaluate(backend, TASKS["nsmc"], table, settings, which="base", phrasing="text first")
    again = evaluate(backend, TASKS["nsmc"], table, settings, which="base", phrasing="text first")
    assert tuple(results) == WAYS
    assert [result.predicted for result in results.values()] == [result.predicted for result in again.values()]
    rows = read_jsonl(save_results(results.values(), tmp_path / "results.jsonl"))
    answers = read_jsonl(tmp_path / "predictions.jsonl")
    assert len(answers) == 10 * len(WAYS) and [one["text"] for one in answers[:10]] == results["free"].answers
    assert [(one["line"], one["gold"]) for one in answers[-10:]] == list(
        zip(table["line"], table["label"], strict=True)
    )
    assert [one["label"] for one in answers[-10:]] == results["calibrated"].predicted
    assert answers[-1] | {"task": "nsmc", "way": "calibrated", "which": "base", "text": None} == answers[-1]
    wanted = {
        "model",
        "backend",
        "dtype",
        "batch_size",
        "phrasing",
        "question",
        "template",
        "seed",
        "coverage",
        "which",
    }
    assert all(wanted <= set(row) for row in rows)
    assert rows[0]["way"] == "free" and rows[0]["max_new_tokens"] == 3 and rows[0]["dtype"] == "float32"
    assert result_table(results.values()).set_index("way").loc["choice", "coverage"] == 1
    assert all(label in TASKS["nsmc"].classes for label in results["calibrated"].predicted)


def test_a_model_that_knows_the_answer_scores_one(settings, prompt):
    class Oracle:
        facts, room = {"model": "oracle"}, None

        def __init__(self, words):
            self.prompt, self.words = prompt, words

        def free(self, prompts, max_new_tokens):
            return [f"{word}입니다." for word in self.words]

    table = read_benchmark("kornli", sample_data("zero_shot")).head(12)
    words = [TASKS["kornli"].words[label] for label in table["label"]]
    told = evaluate(Oracle(words), TASKS["kornli"], table, settings, ways=["free"])["free"].row
    assert told["macro_f1"] == told["coverage"] == 1
    shifted = evaluate(Oracle([*words[1:], "모름"]), TASKS["kornli"], table, settings, ways=["free"])["free"].row
    assert shifted["macro_f1"] < 0.5 and shifted["coverage"] == pytest.approx(11 / 12)


def test_published_figures_are_those_of_the_seeds():
    table = published_table(sample_data("published", "zero_shot.csv")).pivot(index="model", columns="task", values="f1")
    assert table.loc["SOLAR 10.7B TaskInstruct", list(TASKS)].tolist() == [0.44, 0.68, 0.63, 0.76]
    assert table.loc["Mistral 7B TaskInstruct", list(TASKS)].tolist() == [0.31, 0.51, 0.41, 0.77]


@pytest.mark.parametrize("way", WAYS)
def test_a_row_without_room_is_named_before_anything_is_asked(backend, settings, way):
    table = read_benchmark("nsmc", sample_data("zero_shot")).head(6)
    table.loc[3, "document"] = "긴 이야기 " * 300
    with pytest.raises(InputError, match="longer than the model") as caught:
        evaluate(backend, TASKS["nsmc"], table, settings, ways=[way])
    assert caught.value.place == "nsmc, line 5 of its file" and caught.value.allowed == "at most 512"
    with pytest.raises(InputError, match="no row to ask about"):
        evaluate(backend, TASKS["nsmc"], table.head(0), settings, ways=[way])


def test_at_least_one_task_is_asked():
    with pytest.raises(InputError, match="tasks"):
        ZeroShotSettings.load(tasks=[])


def test_the_figure_shows_both_bars(backend, settings):
    table = read_benchmark("nsmc", sample_data("zero_shot")).head(6)
    rows = result_table(evaluate(backend, TASKS["nsmc"], table, settings, ways=["sum"], which="base").values())
    legend = interval_figure(rows, "F1").axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["always the most frequent class", "labels drawn by lot", "base"]


def test_the_hub_is_a_place_of_the_data(monkeypatch, tmp_path):
    asked = []
    files = read_tables(ZeroShotSettings.load(tasks=["nsmc"], rows=24), Rejects(tmp_path / "rows.jsonl"))

    def hub(name, rejects):
        asked.append(name)
        return read_benchmark(name, sample_data("zero_shot"), rejects)

    monkeypatch.setattr("helpers.instruct.zero_shot.read_hub", hub)
    settings = ZeroShotSettings.load(tasks=["nsmc"], rows=24, data_dir="hub")
    assert read_tables(settings, Rejects(tmp_path / "rows.jsonl"))["nsmc"].equals(files["nsmc"]) and asked == ["nsmc"]
    assert len(files["nsmc"]) == 24


def test_the_bars_of_a_task_have_one_colour():
    axes = habit_figure({"a": {"가": 0.9, "나": 0.1}, "b": {"다": 0.5, "라": 0.3, "마": 0.2}}, "habits").axes[0]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert len(set(colours[:2])) == len(set(colours[2:])) == 1 and len(set(colours)) == 2
    assert [text.get_text() for text in axes.get_xticklabels()] == ["가", "나", "다", "라", "마"]

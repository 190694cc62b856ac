"""The four tasks as task files of lm-evaluation-harness: same rows, same log-probabilities, same accuracy."""

import logging
import unicodedata

import pytest
import torch
from lm_eval.utils import make_table

from helpers.course.files import REPOSITORY, sample_data
from helpers.data.benchmarks import read_benchmark, stratified_sample
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt
from helpers.instruct.scoring.decisions import decide
from helpers.instruct.scoring.likelihood import label_likelihoods
from helpers.instruct.scoring.questions import TASKS

ROWS = 12


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    tokenizer, model = load_language_model(str(sample_data("models", "ko-mini-mistral")))
    model = model.float()
    for weights in model.parameters():  # far from what it learned: no label is everybody's favourite
        weights.data.add_(0.05 * torch.randn_like(weights))
    return model, Prompt.for_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def theirs(small, tmp_path_factory):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, prompt = small
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(
        include_path=str(REPOSITORY / "config" / "lm_eval"), include_defaults=False, metadata={"rows": ROWS}
    )
    harness = HFLM(pretrained=model, tokenizer=prompt.tokenizer, batch_size=8, add_bos_token=True)
    names = [f"course_{name}" for name in TASKS]
    return simple_evaluate(harness, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True)


def ours(small, name, **row):
    model, prompt = small
    table = stratified_sample(read_benchmark(name, sample_data("zero_shot")), ROWS, 13)
    return table, label_likelihoods(model, TASKS[name].prompts(prompt, table, **row), TASKS[name].label_ids(prompt))


def of_harness(theirs, name):
    samples = sorted(theirs["samples"][f"course_{name}"], key=lambda sample: sample["doc_id"])
    return torch.tensor([[float(each[0]) for each in sample["filtered_resps"]] for sample in samples])


@pytest.mark.parametrize("name", TASKS)
def test_log_probabilities_and_accuracy_are_equal(small, theirs, name):
    table, likelihoods = ours(small, name)
    torch.testing.assert_close(likelihoods, of_harness(theirs, name), atol=1e-4, rtol=0)
    gold = torch.tensor([TASKS[name].classes.index(label) for label in table["label"]])
    lengths = list(map(len, TASKS[name].words.values()))
    told = theirs["results"][f"course_{name}"]
    assert told["acc,none"] == pytest.approx(decide(likelihoods).eq(gold).double().mean().item())
    characters = decide(likelihoods, "character", lengths=lengths).eq(gold).double().mean().item()
    assert told["acc_norm,none"] == pytest.approx(characters)


def test_the_equality_can_fail(small, theirs):
    _, other = ours(small, "nsmc", phrasing="as a choice")
    assert (other - of_harness(theirs, "nsmc")).abs().max() > 0.1


def test_the_task_files_are_read_offline_from_local_files(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(REPOSITORY / "config" / "lm_eval")
    import course_rows

    rows = course_rows.nsmc(rows=10)["test"]
    assert rows.num_rows == 10 and rows[0]["words"] == ["부정", "긍정"] and rows[0]["prompt"].endswith("###출력:")
    lines = ["id\tdocument\tlabel", "1\t좋다\t1", "2\t\t0", "3\t별로\t0"]  # the public file has such rows
    (tmp_path / "ratings_test.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(course_rows, "REJECTED", tmp_path)
    asked = course_rows.nsmc(data_dir=str(tmp_path))["test"]
    assert asked.num_rows == 2
    (tmp_path / "ratings_test.txt").write_text(unicodedata.normalize("NFD", "\n".join(lines)), encoding="utf-8")
    assert course_rows.nsmc(data_dir=str(tmp_path))["test"]["prompt"] == asked["prompt"]  # the prompt object's NFC
    assert (tmp_path / "nsmc.jsonl.rejected.jsonl").is_file()


def test_the_harness_s_own_command_can_print_its_table():
    scores = {"alias": "course_nsmc", "acc,none": 0.5, "acc_stderr,none": 0.1}
    told = {"results": {"course_nsmc": scores}, "versions": {"course_nsmc": 1}, "n-shot": {"course_nsmc": 0}}
    table = make_table(told | {"higher_is_better": {"course_nsmc": {"acc": True}}})
    assert "course_nsmc" in table and "0.5" in table

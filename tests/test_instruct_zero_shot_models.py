"""The models of lesson 10: three over one base; the adapter that the repository carries keeps to the form, and is verified."""

import json
import shutil

import pytest

from helpers.course.errors import InputError
from helpers.course.paths import sample_data
from helpers.data.benchmarks import read_benchmark
from helpers.instruct.adapters import CARD_FILE, WEIGHTS
from helpers.instruct.questions import TASKS
from helpers.instruct.zero_shot import ZeroShotSettings, evaluate
from helpers.instruct.zero_shot_models import models_to_ask

CHOOSER = sample_data("models", "ko-mini-mistral-chooser")


def asked(chooser):
    """Settings that train nothing: the tuned model is the chooser as well."""
    return ZeroShotSettings.load(adapter=CHOOSER, chooser=chooser, max_new_tokens=8, draws=100)


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(CHOOSER, tmp_path / "chooser")


def test_the_chooser_answers_tasks_that_it_never_saw_with_a_label_and_the_base_does_not():
    settings = asked(CHOOSER)
    models = models_to_ask(settings)
    assert list(models) == ["base", "tuned", "chooser"]
    for name in ("kornli", "question_pair", "hate_speech"):
        table = read_benchmark(name, sample_data("zero_shot")).head(30)
        coverage = {
            which: evaluate(models[which], TASKS[name], table, settings, ways=["free"])["free"].row["coverage"]
            for which in ("base", "chooser")
        }
        assert coverage["base"] < 0.1 and coverage["chooser"] > 0.9, name


def test_it_names_no_machine_and_its_base():
    config = json.loads((CHOOSER / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "sample_data/models/ko-mini-mistral"


def test_an_adapter_of_another_base_is_left_out_and_that_is_said(copied, capsys):
    (copied / CARD_FILE).write_text(json.dumps({"base": "other", "base_fingerprint": "0"}), encoding="utf-8")
    assert "chooser" not in models_to_ask(asked(copied))
    assert "is left out" in capsys.readouterr().out


def test_a_damaged_or_missing_adapter_is_refused(copied, tmp_path):
    with open(copied / WEIGHTS, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(InputError, match="adapter_model"):
        models_to_ask(asked(copied))
    with pytest.raises(InputError, match="no whole adapter"):
        models_to_ask(asked(tmp_path / "nothing"))

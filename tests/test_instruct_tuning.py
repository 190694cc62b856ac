"""Tuning: killed runs, checkpoints, labels left alone, adapters that move; and the adapter that other lessons start from."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from trl import pack_dataset

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY, repository_path
from helpers.instruct import dpo_run, tuning
from helpers.instruct.adapters import CARD_FILE, base_of, belongs_to, need_adapter_for
from helpers.instruct.checkpoints import mark, resumable, run_fingerprint
from helpers.instruct.dpo_settings import DpoSettings
from helpers.instruct.engine import Engine
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import IGNORED, Example, Prompt
from helpers.instruct.settings import InstructionSettings
from helpers.instruct.sft import as_dataset, same_labels
from helpers.instruct.tuning import BASE, need_layers, tuned_adapter
from helpers.serving.vllm_batch import VllmBatch
from tests.instruct_run import ADAPTER, KILLED_AT


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from helpers.instruct.smallest import train_smallest

    folder = tmp_path_factory.mktemp("shared") / "adapter"
    train_smallest(folder, steps=2)
    return folder


def test_an_adapter_holds_all_that_the_next_lesson_needs(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    moved = [name for name, weight in weights.items() if "lora_B" in name and weight.abs().max() > 0]
    assert len(moved) == 8 * 7
    assert Prompt.load(adapter).template == "seed"
    assert belongs_to(adapter, BASE)
    named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    assert named == BASE and base_of(adapter) == str(repository_path(BASE))  # it names no folder of a machine


def test_an_adapter_is_found_again_and_an_old_one_is_not_taken(adapter, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "LESSON_ADAPTER", str(adapter))
    assert tuned_adapter("outputs/none") == adapter
    assert str(adapter) in capsys.readouterr().out
    card = (adapter / CARD_FILE).read_text(encoding="utf-8")
    (adapter / CARD_FILE).write_text('{"base": "other", "base_fingerprint": "0"}', encoding="utf-8")
    assert not belongs_to(adapter, BASE)
    with pytest.raises(InputError, match="another base"):
        need_adapter_for(adapter, BASE)
    (adapter / CARD_FILE).write_text(card, encoding="utf-8")
    need_adapter_for(adapter, BASE)
    with pytest.raises(InputError, match="no whole adapter"):
        need_adapter_for(repository_path(BASE), BASE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that was left alone, a second time after its end, and one that was killed three times; what each said."""
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    wanted = [whole, whole, *(f"{killed}@{kill_at}" for kill_at in KILLED_AT), killed]
    wanted.append(f"{tmp_path_factory.mktemp('labels')}@labels")
    command = [sys.executable, "-m", "tests.instruct_run", *map(str, wanted)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=800)
    said = [json.loads(text) for text in re.findall(r'{"status".*', done.stdout)]  # a killed run's bar ends no line
    assert len(said) == len(wanted), done.stderr[-3000:]
    return whole, killed, said


def test_a_run_killed_three_times_ends_at_bitwise_the_same_adapter(runs):
    """Between checkpoints, while a checkpoint is half written, and just before the end; LoRA dropout draws included."""
    whole, killed, said = runs
    assert said[0] == {"status": 0, "resumed_from": 0, "steps": 6}
    assert said[2:6] == [{"status": -signal.SIGKILL}] * 3 + [{"status": 0, "resumed_from": 4, "steps": 6}]
    one, other = (load_file(folder / ADAPTER) for folder in (whole, killed))
    assert one.keys() == other.keys() and len(one) == 2 * 8 * 7
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
        assert weight.abs().max() > 0


def test_a_finished_run_starts_anew_and_ends_the_same(runs):
    assert runs[2][1] == {"status": 0, "resumed_from": 0, "steps": 6}


def test_the_trainer_learns_our_labels_packed_or_not(runs):
    said = runs[2][6]
    assert said["status"] == 0 and said["as given"] is True
    assert 1 <= said["packed rows"] <= said["rows"]  # Unsloth does not pack on a CPU
    examples = [Example([1, 5, 6], [IGNORED, 5, 6]), Example([1, 7], [IGNORED, 7])] * 4
    packed = pack_dataset(as_dataset(examples), 10)  # what trl does on a GPU
    assert len(packed) < len(examples)
    same_labels(packed, examples)


def test_four_rows_at_once_are_two_rows_twice(runs):
    """A token counts the same in either: the mean is over the step's tokens, not over passes."""
    said = runs[2][6]
    assert said["2 x 2"] == pytest.approx(said["4 x 1"], rel=0.02)
    assert said["4 x 1"][0] != pytest.approx(said["4 x 1"][1], rel=0.02)


def checkpoint(folder, step, whole=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(f'{{"global_step": {step}}}' if whole else '{"glob')
    return path


def test_only_whole_checkpoints_of_the_same_run_are_taken(tmp_path, capsys):
    run = {"lora_r": "8", "rows": "a"}
    mark(tmp_path, run, finished=False)
    second, third = checkpoint(tmp_path, 20), checkpoint(tmp_path, 100, whole=False)
    first = checkpoint(tmp_path, 3)
    assert resumable(tmp_path, run) == second
    assert not third.exists() and first.exists() and not capsys.readouterr().out
    mark(tmp_path, run, finished=True)
    assert resumable(tmp_path, run) is None and not list(tmp_path.glob("checkpoint-*"))
    assert not list(tmp_path.glob("old-*"))


def test_checkpoints_of_another_run_are_moved_aside_and_what_differs_is_named(tmp_path, capsys):
    unknown = checkpoint(tmp_path, 7)
    assert resumable(tmp_path, {"lora_r": "8", "rows": "a"}) is None and not unknown.exists()
    assert (tmp_path / "old-1/checkpoint-7/trainer_state.json").is_file()
    assert "not known" in capsys.readouterr().out
    ours = checkpoint(tmp_path, 20)
    assert resumable(tmp_path, {"lora_r": "4", "rows": "a"}) is None and not ours.exists()
    assert "other lora_r are now in" in capsys.readouterr().out
    again = tmp_path / "old-2"
    assert resumable(again, {"lora_r": "8", "rows": "a"}) == again / "checkpoint-20"  # nothing is lost


def test_a_fingerprint_knows_settings_rows_and_labels():
    one, other = Example([1, 2], [IGNORED, 2]), Example([1, 2], [1, 2])
    base = run_fingerprint({"lora_r": 8}, [one])
    assert base == run_fingerprint({"lora_r": 8}, [one])
    assert base != run_fingerprint({"lora_r": 4}, [one]) and base["rows"] != run_fingerprint({}, [other])["rows"]


def test_a_run_goes_on_under_settings_that_do_not_shape_the_weights():
    for settings, left_out in (
        (InstructionSettings, tuning.NOT_IN_THE_WEIGHTS),
        (DpoSettings, dpo_run.NOT_IN_THE_WEIGHTS),
    ):
        assert left_out <= settings.model_fields.keys()
        for name in ("lora_r", "learning_rate", "seed", "beta", "max_steps", "loss_type", "optim"):
            assert name not in left_out
    assert {"eval_batch_size", "save_total_limit", "ranks", "short_steps"} <= tuning.NOT_IN_THE_WEIGHTS


def test_labels_that_a_library_changed_are_noticed():
    examples = [Example([1, 5, 6], [IGNORED, 5, 6]), Example([1, 7], [IGNORED, 7])]
    same_labels(as_dataset(examples), examples)
    same_labels(as_dataset([Example([1, 5, 6, 1, 7], [IGNORED, 5, 6, IGNORED, 7])]), examples)  # packed
    with pytest.raises(RuntimeError, match="changed the labels"):
        same_labels(as_dataset([Example([1, 5, 6], [1, 5, 6]), examples[1]]), examples)


def test_an_adapter_of_another_base_is_not_made_unasked(monkeypatch):
    monkeypatch.setattr(tuning.subprocess, "run", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(InputError, match=r"(?s)only the small one.*SOLAR.*config/solar.yaml"):
        tuned_adapter("outputs/none", base="upstage/SOLAR-10.7B-v1.0")


def test_a_layer_that_the_model_does_not_have_is_named():
    model = torch.nn.ModuleDict(
        {"mlp": torch.nn.ModuleDict({"up_proj": torch.nn.Linear(2, 2)}), "norm": torch.nn.LayerNorm(2)}
    )
    need_layers(model, ["up_proj", "mlp.up_proj"])
    with pytest.raises(InputError, match=r"(?s)lora_target_modules.*given:   q_pro\n.*allowed: up_proj"):
        need_layers(model, ["up_proj", "q_pro"])


@pytest.fixture
def damaged(tmp_path) -> str:
    """The small model with the end of its weights zeroed: as long as before, and still a file that loads."""
    folder = tmp_path / "model"
    shutil.copytree(repository_path(BASE), folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100_000] + bytes(100_000))
    return str(folder)


def by_tuning(folder: str) -> None:
    tuning.load_for_tuning(InstructionSettings.load(model=folder))


def by_vllm(folder: str) -> None:
    Engine(folder)


def by_the_server(folder: str) -> None:
    VllmBatch(folder, size=1, context=64, dtype="float32", adapters={}, memory_share=0.1, seed=13)


@pytest.mark.parametrize("opened", [load_language_model, by_tuning, by_vllm, by_the_server])
def test_altered_weights_are_refused_by_all_that_open_them(damaged, opened):
    with pytest.raises(InputError, match="damaged or altered"):
        opened(damaged)

"""Tuning: killed runs, labels left alone, adapters that move; and the adapter that other lessons start from."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import pack_dataset

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY, repository_path
from helpers.instruct import models, tuning
from helpers.instruct.adapters import CARD_FILE, base_of, belongs_to, need_adapter_for
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import IGNORED, Example, Prompt
from helpers.instruct.sft import depth
from helpers.instruct.sft import trainer as sft
from helpers.instruct.sft.settings import InstructionSettings
from helpers.instruct.sft.trainer import as_dataset, same_labels, trainer_arguments
from helpers.instruct.tuning import BASE, need_layers, tuned_adapter
from helpers.instruct.vllm_engine.engine import Engine
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


def test_an_adapter_is_replaced_whole_or_kept(adapter, monkeypatch):
    from helpers.instruct.smallest import train_smallest

    move = os.replace

    def refuse(source, target):
        if Path(source) == adapter:
            raise PermissionError(13, "in use")
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    before = (adapter / "adapter_model.safetensors").read_bytes()
    with pytest.raises(InputError, match="could not be replaced"):
        train_smallest(adapter, steps=1)
    assert (adapter / "adapter_model.safetensors").read_bytes() == before and belongs_to(adapter, BASE)


def test_a_deeper_copy_is_made_once_and_whole(tmp_path, monkeypatch):
    asked, load = [], models.load_language_model
    monkeypatch.setattr(models, "load_language_model", lambda name: asked.append(name) or load(name))
    folder = depth.save_up_scaled(BASE, 2, tmp_path / "base")
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 12
    assert depth.save_up_scaled(BASE, 2, folder) == folder and asked == [BASE]
    with monkeypatch.context() as cut:
        cut.setattr(type(load(BASE)[0]), "save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            depth.save_up_scaled(BASE, 3, folder)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 12
    depth.save_up_scaled(BASE, 3, folder)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 10


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
    """Between checkpoints, while a checkpoint is half written, just before the end; LoRA's dropout, too."""
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
    assert said["sampler"] == "ShuffledGroups"
    assert said["packed rows"] == said["rows"]  # Unsloth does not pack on a CPU, and says nothing
    examples = [Example([1, 5, 6], [IGNORED, 5, 6]), Example([1, 7], [IGNORED, 7])] * 4
    packed = pack_dataset(as_dataset(examples), 10)  # what trl does on a GPU
    assert len(packed) < len(examples)
    same_labels(packed, examples)


def test_four_rows_at_once_are_two_rows_twice(runs):
    """A token counts the same in either: the mean is over the step's tokens, not over passes."""
    said = runs[2][6]
    one, other = said["4 x 1"]["losses"], said["2 x 2"]["losses"]
    assert other == pytest.approx(one, rel=0.02)
    assert one[0] != pytest.approx(one[1], rel=0.02)


def test_activations_are_kept_or_computed_twice_as_the_settings_say(runs):
    """Forwards of one layer in two steps; the losses are the same."""
    kept, twice = runs[2][6]["4 x 1"], runs[2][6]["checkpointed"]
    assert (kept["forwards"], twice["forwards"]) == (2, 4)
    assert twice["losses"] == pytest.approx(kept["losses"], rel=0.02)


def test_a_run_that_diverges_is_stopped(runs):
    """transformers would leave the NaN out of its log, and the adapter would be saved."""
    assert re.search(
        r"(?s)the loss is not a finite.*step 2.*nan.*learning rate \(it is 1e\+30\)", runs[2][6]["diverged"]
    )


def test_batches_are_of_like_length_and_come_in_any_order():
    """Every row once; as little PAD as transformers' own groups; but no long way from long rows to short ones."""
    lengths = torch.randint(5, 200, (1003,), generator=torch.Generator().manual_seed(13)).tolist()
    longest, padded = {}, {}
    for sampler in (LengthGroupedSampler, sft.ShuffledGroups):
        torch.manual_seed(13)
        rows = list(sampler(8, lengths=lengths))
        assert sorted(rows) == list(range(1003))
        batches = [[lengths[row] for row in rows[i : i + 8]] for i in range(0, 1003, 8)]
        assert [len(batch) for batch in batches] == [8] * 125 + [3]
        longest[sampler] = torch.tensor([float(max(batch)) for batch in batches[:-1]])
        padded[sampler] = sum(max(batch) * len(batch) for batch in batches)
    assert padded[sft.ShuffledGroups] == padded[LengthGroupedSampler] < 1.2 * sum(lengths)
    own, theirs = longest[sft.ShuffledGroups], longest[LengthGroupedSampler]
    assert torch.equal(own.sort().values, theirs.sort().values)
    neighbours = [torch.corrcoef(torch.stack([each[:-1], each[1:]]))[0, 1].item() for each in (theirs, own)]
    assert neighbours[0] > 0.8 and abs(neighbours[1]) < 0.3
    assert list(sft.ShuffledGroups(8, lengths=[3, 9, 4])) == [1, 2, 0]  # fewer rows than a batch


class Packing:
    """In RowTrainer's place: it packs the rows, as trl does on a GPU."""

    def __init__(self, train_dataset, args, **_):
        self.train_dataset, self.callbacks = pack_dataset(train_dataset, args.max_length), []

    def remove_callback(self, _):
        pass

    def add_callback(self, callback):
        self.callbacks.append(callback)


def test_the_pace_counts_all_that_a_packed_row_holds(monkeypatch):
    monkeypatch.setattr(sft, "RowTrainer", Packing)
    settings = InstructionSettings.load(smoke=False, dtype="float32", packing=True, max_seq_length=32)
    examples = [Example([1] + [5] * 7, [IGNORED] + [5] * 7)] * 32  # four in a packed row
    model = SimpleNamespace(dtype=torch.float32)
    trainer = sft.make_trainer(model, SimpleNamespace(tokenizer=None), examples, examples, settings)
    assert len(trainer.train_dataset) == 8
    assert trainer.callbacks[0]._tokens_a_step == 32 * settings.rows_a_step


def test_labels_that_a_library_changed_are_noticed():
    examples = [Example([1, 5, 6], [IGNORED, 5, 6]), Example([1, 7], [IGNORED, 7])]
    same_labels(as_dataset(examples), examples)
    same_labels(as_dataset([Example([1, 5, 6, 1, 7], [IGNORED, 5, 6, IGNORED, 7])]), examples)  # packed
    with pytest.raises(RuntimeError, match="changed the labels"):
        same_labels(as_dataset([Example([1, 5, 6], [1, 5, 6]), examples[1]]), examples)
    with pytest.raises(RuntimeError, match="changed the labels"):  # as many, but another
        same_labels(as_dataset([Example([1, 5, 6], [IGNORED, 5, 7]), examples[1]]), examples)


@pytest.mark.parametrize("packing", [False, True])
def test_settings_reach_the_trainer_under_its_names(packing, tmp_path):
    told = dict(packing=packing, group_by_length=True, max_seq_length=96, eval_batch_size=3)
    settings = InstructionSettings.load(output_dir=tmp_path, load_best_model_at_end=True, **told)
    arguments = trainer_arguments(settings, torch.float32)
    assert (arguments.max_length, arguments.packing, arguments.per_device_eval_batch_size) == (96, packing, 3)
    assert arguments.dataset_kwargs == {"skip_prepare_dataset": not packing}
    assert arguments.train_sampling_strategy == ("random" if packing else "group_by_length")
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("eval_loss", False)


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

"""What a killed run may go on from: whole checkpoints of this very run. Those of another are kept, the difference named."""

import json
import multiprocessing
import time

import pytest
import torch

from helpers.course import checkpoints
from helpers.course.checkpoints import finish, resumable, run_fingerprint, step_of, weights_digest
from helpers.course.errors import InputError
from helpers.embedding import training
from helpers.embedding.infonce import trainer as contrastive_trainer
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.simcse_settings import SimCSESettings
from helpers.instruct import tuning
from helpers.instruct.dpo import run as dpo_run
from helpers.instruct.dpo.settings import DpoSettings
from helpers.instruct.prompts import IGNORED, Example
from helpers.instruct.sft.settings import InstructionSettings

RUN, OTHER = {"lora_r": "8", "rows": "a"}, {"lora_r": "4", "rows": "a"}


def checkpoint(folder, step, whole=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(f'{{"global_step": {step}}}' if whole else '{"glob')
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_whole_checkpoints_of_the_same_run_are_taken(tmp_path, capsys):
    assert resumable(tmp_path, RUN) is None
    second, third = checkpoint(tmp_path, 20), checkpoint(tmp_path, 100, whole=False)
    first = checkpoint(tmp_path, 3)
    assert resumable(tmp_path, RUN) == second and step_of(second) == 20
    assert not third.exists() and first.exists() and not capsys.readouterr().out
    finish(tmp_path, RUN)
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-3", "run.json"]
    assert resumable(tmp_path, RUN) is None and names(tmp_path) == ["run.json"]


def test_a_checkpoint_is_whole_when_every_process_has_written(tmp_path):
    files = ["history-0.json", "history-1.json"]
    resumable(tmp_path, RUN, files)
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    for path in (first / files[0], first / files[1], second / files[0]):
        path.write_text('{"steps": 1}')
    assert resumable(tmp_path, RUN, files) == first and not second.exists()


def test_checkpoints_of_another_run_are_moved_aside_and_what_differs_is_named(tmp_path, capsys):
    unknown = checkpoint(tmp_path, 7)
    assert resumable(tmp_path, RUN) is None and not unknown.exists()
    assert (tmp_path / "old-1/checkpoint-7/trainer_state.json").is_file()
    assert "1 checkpoint of a run that is not known moved to" in capsys.readouterr().out
    ours, older = checkpoint(tmp_path, 20), checkpoint(tmp_path, 10)
    assert resumable(tmp_path, OTHER) is None and not ours.exists() and not older.exists()
    assert "2 checkpoints of a run with other lora_r moved to" in capsys.readouterr().out
    assert names(tmp_path / "old-2") == ["checkpoint-10", "checkpoint-20", "run.json"]


def test_a_run_that_comes_back_finds_its_checkpoints_again(tmp_path):
    resumable(tmp_path, RUN)
    ours = checkpoint(tmp_path, 20)
    resumable(tmp_path, OTHER)
    theirs = checkpoint(tmp_path, 6)
    assert resumable(tmp_path, RUN) == ours and ours.exists() and not theirs.exists()
    assert names(tmp_path) == ["checkpoint-20", "old-2", "run.json"]
    finish(tmp_path, RUN, keep=False)
    assert resumable(tmp_path, OTHER) == theirs and names(tmp_path) == ["checkpoint-6", "run.json"]


def test_a_finished_run_that_was_moved_aside_stays_there(tmp_path):
    resumable(tmp_path, RUN)
    checkpoint(tmp_path, 20)
    finish(tmp_path, RUN)
    assert resumable(tmp_path, OTHER) is None
    assert resumable(tmp_path, RUN) is None and (tmp_path / "old-1/checkpoint-20").is_dir()


def test_a_run_that_leaves_nothing_leaves_what_is_not_its_own(tmp_path):
    checkpoint(tmp_path, 7)
    resumable(tmp_path, RUN)
    checkpoint(tmp_path, 20)
    (tmp_path / "mine.txt").write_text("keep")
    finish(tmp_path, RUN, keep=False)
    assert names(tmp_path) == ["mine.txt", "old-1"]


def at_work(folder, ready):
    resumable(folder, OTHER)
    ready.set()
    time.sleep(60)


def begun_anew(folder):
    checkpoints._held.clear()  # what it has from the process that it was forked from
    resumable(folder, OTHER)


def test_two_runs_do_not_share_a_folder(tmp_path):
    """The second would move the first one's checkpoints aside, and then find its later ones, of other weights."""
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    other = fork.Process(target=at_work, args=(tmp_path, ready), daemon=True)
    other.start()
    assert ready.wait(60)
    theirs = checkpoint(tmp_path, 6)
    with pytest.raises(InputError, match=r"(?s)another run is at work.*output_dir"):
        resumable(tmp_path, RUN)
    assert theirs.exists()
    other.kill()
    other.join()
    assert resumable(tmp_path, RUN) is None and names(tmp_path) == ["old-1", "run.json"]
    assert resumable(tmp_path, RUN) is None  # a notebook's cell that is run again is no other run
    finish(tmp_path, RUN)
    free = fork.Process(target=begun_anew, args=(tmp_path,))
    free.start()
    free.join()
    assert free.exitcode == 0


def test_of_several_processes_only_the_first_touches_the_folder(tmp_path, monkeypatch):
    """The second gets what the first has found, and removes nothing."""
    resumable(tmp_path, RUN)
    half = checkpoint(tmp_path, 20, whole=False)
    told = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(
        torch.distributed, "broadcast_object_list", lambda found: told.append(list(found)) or found.__setitem__(0, half)
    )
    assert resumable(tmp_path, OTHER) == half and told == [[None]]
    finish(tmp_path, OTHER, keep=False)
    assert half.exists() and json.loads((tmp_path / "run.json").read_text())["fingerprint"] == RUN


def test_a_fingerprint_knows_settings_rows_labels_and_where_a_set_ends():
    one, other = Example([1, 2], [IGNORED, 2]), Example([1, 2], [1, 2])
    base = run_fingerprint({"lora_r": 8}, [one], [other])
    assert base == run_fingerprint({"lora_r": 8}, iter([one]), [other]) and base["lora_r"] == "8"
    assert base != run_fingerprint({"lora_r": 4}, [one], [other])
    for sets in ([[one], [one]], [[one, other], []], [[other], [one]]):
        assert run_fingerprint({"lora_r": 8}, *sets)["rows"] != base["rows"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_weights_are_told_apart_bit_by_bit(dtype):
    weight = torch.arange(6).reshape(2, 3).to(dtype)
    same = weights_digest([("a", weight)])
    assert same == weights_digest([("a", weight.clone().requires_grad_(dtype.is_floating_point))])
    changed = weight.clone()
    changed[1, 2] += 1
    for named in ([("b", weight)], [("a", changed)], [("a", weight), ("b", weight[0, 0])]):
        assert weights_digest(named) != same


@pytest.mark.parametrize(
    ("settings", "module"),
    [
        (InstructionSettings, tuning),
        (DpoSettings, dpo_run),
        (SimCSESettings, training),
        (InfoNCESettings, contrastive_trainer),
    ],
)
def test_a_run_goes_on_under_settings_that_do_not_shape_the_weights(settings, module):
    left_out = module.NOT_IN_THE_WEIGHTS
    assert left_out <= settings.model_fields.keys() and {"output_dir", "profile", "config"} <= left_out
    learned = {"lora_r", "seed", "max_steps", "lr", "learning_rate", "beta", "loss_type", "optim", "loss_temperature"}
    learned |= {"batch_size", "hard_negatives", "epochs", "warmup", "piece_weights", "use_lora", "group_size"}
    assert not learned & left_out

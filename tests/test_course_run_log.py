"""The log of a run: nowhere, TensorBoard, W&B offline."""

import time

import pytest

from helpers.course.run_log import read_curves, run_log


def losses(logger, folder, steps=(1, 2), **how):
    with run_log(logger, folder, "a run", {"lr": 0.001, "output_dir": folder}, **how) as log:
        for step in steps:
            log.log({"loss": 1 / step, "spearman": 0.5}, step)


def test_none_writes_nothing(tmp_path):
    losses("none", tmp_path)
    assert list(tmp_path.iterdir()) == [] and read_curves(tmp_path) == {}


def test_tensorboard_gives_the_curves_back(tmp_path):
    losses("tensorboard", tmp_path)
    assert read_curves(tmp_path) == {"loss": [(1, 1.0), (2, 0.5)], "spearman": [(1, 0.5), (2, 0.5)]}


def test_a_new_run_in_the_same_folder_is_one_curve(tmp_path):
    losses("tensorboard", tmp_path, (1, 2, 3))
    losses("tensorboard", tmp_path)
    assert read_curves(tmp_path)["loss"] == [(1, 1.0), (2, 0.5)]


def test_a_run_that_goes_on_continues_the_curve(tmp_path):
    losses("tensorboard", tmp_path, (1, 2, 8))  # stopped after step 8, with a checkpoint of step 2
    losses("tensorboard", tmp_path, (4, 8), anew=False)
    assert read_curves(tmp_path)["loss"] == [(1, 1.0), (2, 0.5), (4, 0.25), (8, 0.125)]


def when_there(read, expected):
    """What `read` gives once it holds `expected`: W&B's own process writes the file, a moment later on a busy machine."""
    end = time.monotonic() + 30
    while expected not in (found := read()):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def test_wandb_writes_a_run_offline(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_MODE", raising=False)  # offline is ours to choose, not the tests'
    losses("wandb", tmp_path)
    [run] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    written = when_there(run.read_bytes, b"spearman")
    assert b"korean-fine-tuning" in written and b"lr" in written
    assert "wandb" not in capfd.readouterr().out


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_the_log_is_closed_by_an_error_too(tmp_path, logger):
    with pytest.raises(ZeroDivisionError), run_log(logger, tmp_path, "a run", {}) as log:
        log.log({"loss": 0.25}, 1)
        raise ZeroDivisionError
    when_there(lambda: b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()), b"loss")

"""Contrastive runs that were killed, in one process and in two: they go on to bitwise the weights of one that was not."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as processes

from helpers.course.launch import free_port
from helpers.course.machine import set_seed
from helpers.course.training_faults import LoraDidNotMove
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.gather import end_group
from helpers.embedding.infonce import callbacks as contrastive_callbacks
from helpers.embedding.infonce.callbacks import Checkpoints, EveryAdapterMoves
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.infonce.trainer import train_contrastive

QUERIES = [
    "여권 만들기",
    "막차 시간",
    "도서관 휴관일",
    "쓰레기 버리는 날",
    "예방접종 예약",
    "주차 요금",
    "전입 신고",
    "분실물",
]
DOCUMENTS = [
    "여권은 구청에서 신청한다.", "버스는 자정까지 다닌다.", "도서관은 월요일에 쉰다.", "봉투는 저녁에 내놓는다.",
    "보건소에 전화로 예약한다.", "한 시간에 천 원이다.", "이사한 지 두 주 안에 한다.", "역무실에서 맡아 둔다.",
]  # fmt: skip
ROWS = ContrastiveRows.checked(QUERIES, DOCUMENTS, [[f"오답 {sign}"] for sign in "가나다라마바사아"])


def settings_in(folder, **changes):
    common = dict(batch_size=2, epochs=2, max_length=16, chunk_tokens=64, autocast="no", warmup=0.0, max_steps=4)
    return InfoNCESettings.load(output_dir=folder, **common | changes)


def fresh(settings):
    set_seed(0)
    return settings.encoder()  # with dropout: its draws must go on as well


def weights(encoder):
    return torch.cat([p.detach().flatten() for p in encoder.parameters() if p.requires_grad])


class Killed(Exception):
    pass


@pytest.mark.parametrize("changes", [{}, {"use_lora": True, "lora_dropout": 0.1}])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, changes, capsys):
    def kill_at(step):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == step:
                raise Killed

        monkeypatch.setattr(Checkpoints, "on_step_begin", on_step_begin)

    own = settings_in(tmp_path, **changes)
    folder = tmp_path / "trainer"
    monkeypatch.setattr(contrastive_callbacks, "SAVE_SECONDS", 0.0)
    whole = fresh(own)
    expected = train_contrastive(whole, ROWS, own)
    assert not list(folder.iterdir())
    kill_at(3)
    with pytest.raises(Killed):
        train_contrastive(fresh(own), ROWS, own)
    (folder / "checkpoint-3" / "history-0.json").unlink()  # as if the kill had come while it was written
    kill_at(None)
    other = train_contrastive(fresh(own), ROWS, own.changed(lr=1e-5))
    told = capsys.readouterr().out
    assert "of a run with other lr moved to" in told and "goes on" not in told and other.steps == 4
    stopped = fresh(own)
    history = train_contrastive(stopped, ROWS, own.changed(mine_top=7))  # which changes no weight
    assert "goes on after step 2" in capsys.readouterr().out
    assert torch.equal(weights(stopped), weights(whole)) and not torch.equal(weights(whole), weights(fresh(own)))
    assert (history.losses, history.masked, history.steps) == (expected.losses, expected.masked, 4)
    assert not list(folder.iterdir())


def test_a_run_of_another_start_or_under_other_prefixes_is_another_run(tmp_path, monkeypatch, capsys):
    def cut_off(self, args, state, control, **_):
        if state.global_step == 1:
            raise Killed

    monkeypatch.setattr(contrastive_callbacks, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Checkpoints, "on_step_begin", cut_off, raising=False)
    own = settings_in(tmp_path)
    start, prefixed = fresh(own), fresh(own)
    start.model.get_input_embeddings().weight.data[7, 0] += 1.0
    prefixed.prompts["query"] = "질문: "
    differs = []
    for encoder in (fresh(own), start, prefixed):
        with pytest.raises(Killed):
            train_contrastive(encoder, ROWS, own)
        differs += [line.partition("other ")[2].partition(" moved")[0] for line in capsys.readouterr().out.splitlines()]
    assert differs == ["start", "start, rows"]


def test_a_step_that_fp16_skips_is_no_step():
    model = torch.nn.ModuleDict({"query": torch.nn.ModuleDict({"lora_B": torch.nn.ModuleDict()})})
    model["query"]["lora_B"]["default"] = torch.nn.Linear(2, 2)
    watch = EveryAdapterMoves(model)
    taken = dict(args=None, state=None, control=None)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}], step_was_skipped=True)
    watch.on_optimizer_step(**taken, optimizer=optimizer)
    optimizer.step_was_skipped = False
    with pytest.raises(LoraDidNotMove):
        watch.on_optimizer_step(**taken, optimizer=optimizer)


# Two processes


def _one_of_two(rank, port, folder, name, killed):
    """Train; where `killed`, the second process dies while it writes checkpoint 3, which the first one may complete."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= address | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    begun, save = [], Checkpoints.on_save

    def on_save(self, args, state, control, **told):
        if killed and rank == 1 and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, args, state, control, **told)

    contrastive_callbacks.SAVE_SECONDS, Checkpoints.on_save = 0.0, on_save
    Checkpoints.on_step_begin = lambda self, args, state, control, **_: begun.append(state.global_step)
    own = settings_in(folder / ("run" if killed or name == "resumed" else name))
    encoder = fresh(own)
    history = train_contrastive(encoder, ROWS, own, shown=False)
    torch.save({"weights": weights(encoder), "losses": history.losses, "begun": begun}, folder / f"{name}-{rank}.pt")
    del encoder
    end_group()


def test_two_processes_that_were_killed_go_on_to_the_same_weights(tmp_path):
    def two(name, killed=False):
        told = (free_port(), tmp_path, name, killed)
        processes.start_processes(_one_of_two, told, nprocs=2, start_method="forkserver")

    # The libraries are imported once, for this test and for others that start processes in this way.
    processes.get_context("forkserver").set_forkserver_preload(["helpers.embedding.infonce.trainer"])
    two("whole")
    with pytest.raises(processes.ProcessExitedException, match="SIGKILL"):
        two("killed", killed=True)
    folder = tmp_path / "run" / "trainer"
    assert (folder / "checkpoint-2/history-1.json").exists() and not (folder / "checkpoint-3/history-1.json").exists()
    assert json.loads((folder / "run.json").read_text())["fingerprint"]["processes"] == "2"
    two("resumed")
    for rank in range(2):
        whole, resumed = (torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("whole", "resumed"))
        assert torch.equal(whole["weights"], resumed["weights"]) and whole["losses"] == resumed["losses"]
        assert (whole["begun"], resumed["begun"]) == ([0, 1, 2, 3], [2, 3])
    assert not list(folder.iterdir())

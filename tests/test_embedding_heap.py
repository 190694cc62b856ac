"""Freed memory goes back to the system when what is held has grown, and only then."""

import pytest
import torch

from helpers.embedding import heap

SIZE = 2**16


@pytest.fixture
def given_back(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "TRIM", calls.append)
    return calls


def told(folder, monkeypatch):
    """A file in the place of the kernel's, and a function that writes how many bytes are held into it."""
    file, page = folder / "statm", heap.os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(heap, "STATM", file)
    return lambda held: file.write_text(f"1000000 {held // page} 7 7 0 7 0")


def test_what_is_held_may_grow_by_the_slack(tmp_path, monkeypatch, given_back):
    hold, held = told(tmp_path, monkeypatch), heap.Held()
    for bytes_held, calls in ((2**30, 0), (2**30 + heap.SLACK, 0), (2**30 + heap.SLACK + 2**14, 1), (2**29, 1)):
        hold(bytes_held)
        held.settle()
        assert len(given_back) == calls


@pytest.mark.skipif(heap.TRIM is None, reason="the C library is not glibc: nothing is given back there")
def test_freed_blocks_between_used_ones_are_given_back():
    def resident():
        return int(heap.STATM.read_text().split()[1]) * heap.os.sysconf("SC_PAGE_SIZE")

    blocks = [torch.ones(SIZE // 4) for _ in range(2000)]  # 125 MB in blocks that glibc takes from its heap
    blocks = blocks[::40]
    before = resident()
    heap.give_back()
    assert before - resident() > 2**26
    assert all(block.sum() == SIZE // 4 for block in blocks)


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(heap, "TRIM", None)
    monkeypatch.setattr(heap, "STATM", None)  # would fail when read
    heap.give_back()
    heap.Held().settle()

"""On what device a machine computes, and in what precision: one decision, and everything follows it."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.course.machine import chosen_dtype, detect_machine, torch_device
from helpers.embedding.mining import nearest
from helpers.instruct.unsloth_first import fast_language_model


@pytest.mark.parametrize(
    ("memory", "capability", "cpu_bf16", "device", "dtype"),
    [
        (8, (8, 6), False, "cpu", torch.float32),
        (8, (8, 6), True, "cpu", torch.bfloat16),
        (6, (7, 5), False, "cpu", torch.float32),
        (15, (7, 5), True, "cuda", torch.float16),
        (24, (8, 9), False, "cuda", torch.bfloat16),
    ],
)
def test_all_that_is_decided_is_decided_for_the_device_in_use(memory, capability, cpu_bf16, device, dtype, monkeypatch):
    card = SimpleNamespace(name="a card", total_memory=memory * 2**30, major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr("helpers.course.machine._cpu_has_bf16", lambda: cpu_bf16)
    machine = detect_machine()
    assert (torch_device().type, chosen_dtype(), machine.bf16) == (device, dtype, dtype == torch.bfloat16)
    assert chosen_dtype("float16") == torch.float16
    if device == "cpu":
        rows = np.eye(3, dtype=np.float32)
        assert nearest(rows, rows, 1, "matmul")[1].flatten().tolist() == [0, 1, 2]


def test_unsloth_trains_on_the_cpu_beside_a_gpu_that_is_too_small(monkeypatch):
    monkeypatch.setenv("UNSLOTH_FORCE_CPU", "0")
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel="the class"))
    monkeypatch.setattr("helpers.instruct.unsloth_first.torch_device", lambda: torch.device("cuda"))
    assert fast_language_model() == "the class" and os.environ["UNSLOTH_FORCE_CPU"] == "0"
    monkeypatch.setattr("helpers.instruct.unsloth_first.torch_device", lambda: torch.device("cpu"))
    assert fast_language_model() == "the class" and os.environ["UNSLOTH_FORCE_CPU"] == "1"

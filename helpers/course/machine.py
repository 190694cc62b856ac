"""What machine this is, which profile fits it, seeds, and how much time and memory a piece of work took."""

import os
import platform
import random
import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import psutil

if TYPE_CHECKING:
    import torch

MEGABYTE = 2**20
GIGABYTE = 2**30
T4_MEMORY_GB = 14.0
"""A GPU below this has no room for the t4 profile (a T4 shows 14.6 to 15 of its 16 GB): the CPU is used instead."""
A100_MEMORY_GB = 38.0
BF16_CAPABILITY = (8, 0)
"""``torch.cuda.is_bf16_supported()`` is True on a T4, which only emulates bf16: the compute capability decides."""

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")

GpuClass = Literal["none", "t4", "a100"]


@dataclass(frozen=True)
class Machine:
    """The machine a lesson runs on; memory in GB (2**30 bytes), capability as CUDA's (major, minor).

    ``bf16``: the device in use (the GPU, or the CPU where ``gpu_class`` is none) multiplies bfloat16 itself.
    """

    python: str
    system: str
    cpu: str
    cores: int
    memory_gb: float
    gpu: str | None
    gpu_memory_gb: float | None
    capability: tuple[int, int] | None
    gpu_class: GpuClass
    bf16: bool

    @property
    def profile(self) -> Literal["cpu", "t4", "a100"]:
        """The profile that fits this machine."""
        return "cpu" if self.gpu_class == "none" else self.gpu_class


def detect_machine() -> Machine:
    """Look at this machine (imports torch to ask for a GPU)."""
    import torch

    gpu = memory = capability = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu, memory = properties.name, round(properties.total_memory / GIGABYTE, 1)
        capability = (properties.major, properties.minor)
    kind = gpu_class(memory, capability)
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_name(),
        cores=usable_cores(),
        memory_gb=round(psutil.virtual_memory().total / GIGABYTE, 1),
        gpu=gpu,
        gpu_memory_gb=memory,
        capability=capability,
        gpu_class=kind,
        bf16=_cpu_has_bf16() if kind == "none" else capability >= BF16_CAPABILITY,
    )


def gpu_class(memory_gb: float | None, capability: tuple[int, int] | None) -> GpuClass:
    """``a100``: at least 38 GB and capability 8.0 (real bf16); ``t4``: any other CUDA GPU with 14 GB; else ``none``."""
    if memory_gb is None or capability is None or memory_gb < T4_MEMORY_GB:
        return "none"
    return "a100" if memory_gb >= A100_MEMORY_GB and capability >= BF16_CAPABILITY else "t4"


def torch_device() -> "torch.device":
    """The GPU when there is one that fits a GPU profile, otherwise the CPU."""
    import torch

    return torch.device("cpu" if detect_machine().gpu_class == "none" else "cuda")


def chosen_dtype(name: str = "auto") -> "torch.dtype":
    """``float32``, ``bfloat16``, ``float16`` as torch's; ``auto``: the shortest that :func:`torch_device` computes itself."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    machine = detect_machine()
    return torch.bfloat16 if machine.bf16 else torch.float32 if machine.gpu_class == "none" else torch.float16


def set_seed(seed: int) -> None:
    """Seed Python's, numpy's and torch's random numbers (GPU too)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def peak_memory_mb() -> float:
    """The most memory (resident set, MB of 2**20 bytes) that this process has held.

    On Linux since its start, or since the last ``measure()`` began: the kernel's VmHWM. getrusage's ru_maxrss would not
    do there: a process inherits it from the one that started it.
    """
    if STATUS.is_file():
        return int(re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="utf-8"), re.MULTILINE)[1]) / 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
    return psutil.Process().memory_info().peak_wset / MEGABYTE  # Windows


def tree_memory_mb(process: psutil.Process, *, children_only: bool = False) -> float:
    """The memory (resident set, MB) that a process and its descendants hold now."""
    total = 0
    for member in [*([] if children_only else [process]), *_descendants(process)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended since the list was made
    return total / MEGABYTE


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class measure:
    """Time and memory of a block: ``with measure() as m: work()``, then ``m.seconds``, ``m.peak_mb``, ``m.added_mb``.

    ``peak_mb`` is the largest resident set of this process and its children seen while the block ran, sampled every
    10 ms; a shorter spike is seen, too, where it is this process's and the system keeps its peak. ``added_mb`` is that
    less what was held at the start. ``gpu_peak_mb`` is what torch held at most on the GPU, None without one.
    ``children_only`` leaves this process itself out.
    """

    def __init__(self, *, children_only: bool = False, every: float = 0.01) -> None:
        self._process, self._children_only, self._every = psutil.Process(), children_only, every
        self.seconds = self.peak_mb = self.added_mb = 0.0
        self.gpu_peak_mb: float | None = None

    def __enter__(self) -> Self:
        self._done = threading.Event()
        if not self._children_only:
            forget_peak()
            self._peak_before = peak_memory_mb()
        self._first = self.peak_mb = self._held()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._gpu = _torch_gpu()
        if self._gpu:
            self._gpu.reset_peak_memory_stats()
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, self._held())
        self.added_mb = self.peak_mb - self._first
        if self._gpu:
            self.gpu_peak_mb = self._gpu.max_memory_allocated() / MEGABYTE

    def _held(self) -> float:
        """What the tree holds now, or the peak of this process where that is higher and new since the start."""
        now = tree_memory_mb(self._process, children_only=self._children_only)
        if self._children_only:
            return now
        peak = peak_memory_mb()
        return max(now, peak) if peak > self._peak_before else now

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self.peak_mb = max(self.peak_mb, self._held())


def forget_peak() -> None:
    """Let the kernel's peak of this process start anew from what it holds now (Linux, where it is allowed)."""
    with suppress(OSError):  # no such file, or not allowed: then only a higher peak than before is seen
        CLEAR_REFS.write_text("5", encoding="ascii")


def _torch_gpu() -> "type | None":
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def usable_cores() -> int:
    """The cores this process may use: in a container or under `taskset` fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _cpu_name() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _cpu_has_bf16() -> bool:
    """True where the CPU multiplies bf16 itself (AVX512-BF16 or AMX); elsewhere bf16 runs, but slowly."""
    flags = re.search(r"^flags\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags[1].split())

"""Start a module of the course in several processes, and read what accelerate would start on several machines."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.machine import usable_cores
from helpers.course.paths import REPOSITORY, short_path

PLAN = ("nnodes", "node_rank", "nproc_per_node", "master_addr", "master_port", "rdzv_backend", "rdzv_endpoint")
"""What `accelerate launch` hands on to torchrun, by torchrun's own names."""


def free_port() -> int:
    """A port of this machine that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(processes: int, module: str, arguments: Sequence[str] = (), *, timeout: float = 900) -> str:
    """Run `python -m module arguments` in `processes` processes of this machine; returns what they printed.

    Each finds RANK, WORLD_SIZE and the address of the first one in its environment, as on a cluster.
    Raises RuntimeError with the last words of the one that failed first, subprocess.TimeoutExpired after `timeout` seconds;
    no process is left behind.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--redirects", "3"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    threads = str(max(1, usable_cores() // processes))
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {"PYTHONPATH": paths}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with tempfile.TemporaryDirectory() as logs:  # a file for each process: on one pipe their lines would mix
        command += ["--log_dir", logs, "-m", module, *arguments]
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes) as started:
            try:
                told, _ = started.communicate(timeout=timeout)
            finally:
                started.terminate()  # torchrun then ends its processes; without effect on one that has ended
        if started.returncode:
            first = re.search(r"Root Cause.*?rank\s*: (\d+)", told, flags=re.DOTALL)
            cause = "".join(_written(logs, "stderr", first[1])) if first else told
            raise RuntimeError(
                f"{module} failed in {processes} processes (status {started.returncode}):\n{cause[-3000:]}"
            )
        return "".join(_written(logs, "stdout"))


def _written(logs: str, stream: str, rank: str = "*") -> list[str]:
    """What the processes wrote to a stream, in the order of their ranks."""
    files = Path(logs).glob(f"*/attempt_0/{rank}/{stream}.log")
    return [file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: int(file.parent.name))]


def launch_plan(file: str | Path, machine_rank: int, module: str) -> dict[str, object]:
    """What `accelerate launch --config_file FILE --machine_rank N -m MODULE` would start on machine N, not started.

    Read, checked and translated by accelerate itself; keys are torchrun's names for them, and `mixed_precision`.
    Raises InputError where accelerate refuses the file.
    """
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    told = ["--config_file", str(file), "--machine_rank", str(machine_rank), "-m", module]
    try:
        found, _, _ = _validate_launch_command(launch_command_parser().parse_args(told))
        if found.multi_gpu:
            prepare_multi_gpu_env(found)
    except (ValueError, TypeError, FileNotFoundError) as error:
        hint = str(error).replace(str(file), Path(file).name)
        raise InputError("accelerate refuses this launch file", file=short_path(Path(file)), hint=hint) from error
    plan = {name: getattr(found, name, None) for name in PLAN}
    return {name: value for name, value in plan.items() if value not in (None, "")} | {
        "mixed_precision": found.mixed_precision
    }

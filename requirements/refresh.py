"""Make a lock file anew: `python3.11 requirements/refresh.py cpu` or `chat`.

Builds a throw-away environment from the `.in` file, takes out what must not be there, writes every installed version
to the `.lock` file with the reason beside each package that the `.in` file names. Then run `make test` on the result.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# Unsloth's own pins resolve backwards to releases that need a GPU, so it comes without its dependencies.
WITHOUT_DEPENDENCIES = {"torch", "unsloth", "unsloth-zoo"}
# CUDA builds that Unsloth and vLLM drag in and that break the CPU build of torch.
NEVER = ("torchvision", "torchaudio", "torchcodec", "xformers", "torchao", "pip", "wheel")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def canonical(name: str) -> str:
    """PEP 503 name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_in(path: Path) -> dict[str, tuple[str, str]]:
    """Package name -> (requirement, reason)."""
    wanted = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement, _, reason = line.partition("#")
        if requirement.strip():
            name = re.split(r"[=<>!~\[ ]", requirement.strip())[0]
            wanted[canonical(name)] = (requirement.strip(), reason.strip())
    return wanted


def main(kind: str) -> None:
    wanted = read_in(HERE / f"{kind}.in")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/pip", "--disable-pip-version-check"]
        bare = [requirement for name, (requirement, _) in wanted.items() if name in WITHOUT_DEPENDENCIES]
        rest = [requirement for name, (requirement, _) in wanted.items() if name not in WITHOUT_DEPENDENCIES]
        if bare:
            subprocess.run([*pip, "install", "--no-deps", "--extra-index-url", CPU_INDEX, *bare], check=True)
        subprocess.run([*pip, "install", *rest], check=True)
        subprocess.run([*pip, "uninstall", "-y", *NEVER[:-2]], check=True)
        freeze = subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True, text=True).stdout
    write_lock(kind, freeze.splitlines(), wanted)


def write_lock(kind: str, installed: list[str], wanted: dict[str, tuple[str, str]]) -> None:
    """One `name==version` a line; the reason beside what the `.in` file names."""
    lines = [f"# Made by `python3.11 requirements/refresh.py {kind}`; install with --no-deps. Do not edit by hand."]
    for line in sorted(installed, key=str.lower):
        name = canonical(line.split("==")[0])
        if name in NEVER:
            continue
        reason = wanted.get(name, ("", ""))[1]
        lines.append(f"{line}  # {reason}" if reason else line)
    (HERE / f"{kind}.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] not in (["cpu"], ["chat"]):
        raise SystemExit(__doc__)
    main(sys.argv[1])

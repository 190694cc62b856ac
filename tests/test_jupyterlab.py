"""JupyterLab itself, in a real browser: lesson 00 is opened, all its cells are run, and none shows an error."""

import json
import os
import re
import shutil
import sys
import time

import pytest

from helpers.course.paths import REPOSITORY
from helpers.serving.background import background, free_port
from tests.browser import open_browser

LESSON = "00_start_here.ipynb"


@pytest.mark.browser
def test_lesson_00_runs_in_jupyterlab_without_an_error(tmp_path):
    lesson = tmp_path / LESSON
    shutil.copy(REPOSITORY / "notebooks" / LESSON, lesson)
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            source = "".join(cell["source"])
            cell["source"] = source.replace("smoke = False", "smoke = True")
    lesson.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")
    port, token = free_port(), "course"
    url = f"http://127.0.0.1:{port}"
    options = [
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        "--no-browser",
        "--ServerApp.port_retries=0",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={tmp_path}", *options]
    own = {
        name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    own |= {
        "JUPYTER_PREFER_ENV_PATH": "1",
        "HF_HUB_OFFLINE": "1",
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
    }
    with (
        background(command, url, f"/api?token={token}", tmp_path / "log", 180, own),
        open_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(f"{url}/lab/tree/{LESSON}?token={token}")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
        # The page calls itself idle before it has a kernel; cells run then would make it ask which kernel to take.
        page.locator(".jp-KernelName", has_text="Python 3").wait_for(timeout=180_000)
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=180_000)
        run_all(page)
        done = wait_until_saved_and_run(page, lesson)
    outputs = [output for cell in done for output in cell["outputs"]]
    errors = [output for output in outputs if output["output_type"] == "error"]
    assert not errors, errors
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("application/x-course-metrics+json" in output.get("data", {}) for output in done[-1]["outputs"])


def run_all(page):
    """By the menu, as a person would; returns once a cell has begun."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]+\]")).first.wait_for(timeout=120_000)


def wait_until_saved_and_run(page, lesson, seconds=400):
    """The code cells as they stand on disk once every one of them has run, or one has failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        page.wait_for_timeout(1000)
        page.keyboard.press("Control+s")
        text = lesson.read_text(encoding="utf-8")
        if not text.rstrip().endswith("}"):
            continue  # it is being written at this moment
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        failed = any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
        if failed or all(cell["execution_count"] for cell in cells):
            return cells
    page.screenshot(path=str(lesson.with_suffix(".png")))
    raise AssertionError(f"the cells did not all run in {seconds} s: {[cell['execution_count'] for cell in cells]}")

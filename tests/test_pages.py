"""The course report in a real browser."""

import nbformat
import pytest

from helpers.course.run import main
from tests.browser import open_browser

CELLS = [
    ("markdown", "# 00 · 첫 수업\n\nWhat you will be able to do."),
    ("code", "smoke = False\nprofile = None"),
    ("code", "from helpers.course.plots import bar_figure, use_course_style\n"
             "use_course_style()\nbar_figure({'전': 0.5, '후': 0.7}, '한글 그림', '점수')"),
    ("code", "from helpers.course.records import record\nrecord(spearman_after=0.7)"),
]  # fmt: skip


def write_lesson(folder, name, cells):
    notebook = nbformat.v4.new_notebook()
    for number, (kind, source) in enumerate(cells):
        cell = getattr(nbformat.v4, f"new_{kind}_cell")(source)
        cell.id = f"cell{number}"
        notebook.cells.append(cell)
    notebook.cells[1].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / name)


@pytest.mark.browser
def test_report_shows_lessons_figures_and_failures(tmp_path):
    write_lesson(tmp_path / "notebooks", "00_first.ipynb", CELLS)
    write_lesson(tmp_path / "notebooks", "01_broken.ipynb", [*CELLS[:2], ("code", "raise ValueError('뜻한 실패')")])
    assert main(["course"], root=tmp_path) == 1
    with open_browser() as browser:
        for width in (1200, 380):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto((tmp_path / "outputs/report.html").as_uri())
            text = page.inner_text("body")
            assert "첫 수업" in text and "spearman after" in text and "0.7" in text
            assert "뜻한 실패" in text and page.locator(".failed").count() >= 1
            figure = page.locator("img").first
            assert figure.evaluate("image => image.complete && image.naturalWidth > 100")
            wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wider <= 0, f"the page scrolls sideways at {width} pixels"

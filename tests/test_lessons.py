"""Every lesson by papermill at smoke size; the metrics that it recorded are asserted."""

import pytest

from helpers.course.files import REPOSITORY
from helpers.course.lessons import find_lessons
from helpers.course.records import read_records
from helpers.course.run import main

LESSONS = [lesson.name for lesson in find_lessons(REPOSITORY)]


def check_start(metrics):
    assert metrics["dimensions"] == 384
    # What the lesson says of a model that was never told what "similar" means: its cosines lie close together.
    assert 0 < abs(metrics["paraphrase_cosine"] - metrics["unrelated_cosine"]) < 0.15
    assert metrics["continuation"].startswith("이 영화는 정말")


def check_data(metrics):
    assert metrics["triplets_fused"] == 650 and metrics["triplets_basic"] == metrics["triplets_domainwise"] == 4 * 650
    assert metrics["ours_positive_among_negatives"] == metrics["ours_negative_twice"] == metrics["leak_ours"] == 0
    assert metrics["bug_positive_among_negatives"] > 0.2 and metrics["bug_negative_twice"] > 0.2
    assert metrics["nfd_factor"] > 2 and metrics["pickle_refused"] is True and metrics["e5_rows"] > 1000


def check_simcse(metrics):
    assert metrics["reference_is_last"] is True and metrics["pairs_survived"] < 0.05
    assert metrics["cosine_of_views_without_dropout"] > 0.9999 > metrics["cosine_of_views_with_dropout"]
    assert metrics["uniformity_after"] < metrics["uniformity_before"] < 0
    for name in ("before", "after", "tfidf", "pairs", "both"):
        assert 0.05 < metrics[f"sts_spearman_{name}"] < 1
    assert metrics["seeds_deviation"] >= 0


CHECKS = {"00_start_here": check_start, "01_embedding_data": check_data, "02_simcse_lora": check_simcse}


def test_every_lesson_has_its_assertions():
    assert sorted(CHECKS) == LESSONS


@pytest.mark.notebook
@pytest.mark.parametrize("name", LESSONS)
def test_lesson_runs_and_its_metrics_hold(name, capsys):
    number = name.split("_")[0]
    status = main(["smoke", number, "--fresh"])
    assert status == 0, capsys.readouterr().err
    CHECKS[name](read_records(REPOSITORY / "outputs/smoke/notebooks" / f"{name}.ipynb"))

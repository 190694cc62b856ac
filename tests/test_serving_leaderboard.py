"""The leaderboard page: its tables, the page by streamlit's own tester, and the page in a real browser."""

import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest

from helpers.course.files import REPOSITORY
from helpers.embedding.scoring.leaderboard_rows import QueryResult, Row, read_rows, save_row
from helpers.embedding.scoring.mteb_tasks import leaderboard_metrics
from helpers.serving.comparison import (
    facts_table,
    newest,
    published_on,
    query_differences,
    rows_table,
    side_by_side,
    sorted_table,
)
from helpers.serving.leaderboard_figures import bars
from tests.browser import open_browser

PAGE = REPOSITORY / "helpers/serving/leaderboard.py"
METRICS = ("ndcg@1", "ndcg@10", "mrr@10", "recall@10")
QUERIES = {
    "q1": ("도서관은 몇 시에 여나요", "도서관은 아침 아홉 시에 엽니다"),
    "q2": ("쓰레기봉투 값", "종량제 봉투는 한 장에 490원입니다"),
    "q3": ("버스 놓쳤을 때", "다음 버스는 십 분 뒤에 옵니다"),
}


def results(scores):
    texts = [answer for _, answer in QUERIES.values()]
    return [
        QueryResult(
            key,
            text,
            dict.fromkeys(METRICS, score),
            [answer],
            sorted(texts, key=lambda t: (t == answer) != (score == 1)),
        )
        for (key, (text, answer)), score in zip(QUERIES.items(), scores, strict=True)
    ]


@pytest.fixture
def board(tmp_path):
    for model, scores in {"작은 모델": (1.0, 0.0, 1.0), "BM25": (0.5, 1.0, 1.0)}.items():
        mean = dict.fromkeys(METRICS, sum(scores) / 3)
        row = Row(model, "hansol", "measured", mean, seed=13, hardware="test", date="2026-01-02T03:04:05+00:00")
        save_row(tmp_path, row, results(scores))
    save_row(tmp_path, Row("작은 모델", "STS", "measured", {"spearman": 0.3}, date="2026-01-02T03:04:05+00:00"))
    return tmp_path


@pytest.fixture
def page(monkeypatch):
    """Run the page on a folder of results, as streamlit runs it."""
    from streamlit.testing.v1 import AppTest

    def open_page(folder, *more):
        monkeypatch.setattr(sys, "argv", [str(PAGE), "--results", str(folder), *more])
        return AppTest.from_file(str(PAGE), default_timeout=60).run()

    return open_page


def test_tables(board):
    rows = read_rows(board / "rows.jsonl")
    table = rows_table(rows)
    assert list(table.columns[:2]) == ["model", "dataset"] and len(table) == 3
    up = sorted_table(table, "ndcg@10")
    assert list(up["model"]) == ["BM25", "작은 모델", "작은 모델"] and up["ndcg@10"].isna().tolist() == [
        False,
        False,
        True,
    ]
    assert list(sorted_table(table, "ndcg@10", best_first=False)["model"][:2]) == ["작은 모델", "BM25"]
    beside = side_by_side(rows, "작은 모델", "BM25", "ndcg@10")
    assert beside.to_dict("index") == {"hansol": {"작은 모델": pytest.approx(2 / 3), "BM25": pytest.approx(2.5 / 3)}}
    named = [replace(row, model="dataset") if row.model == "BM25" else row for row in rows]  # a model may be called so
    assert side_by_side(named, "작은 모델", "dataset", "ndcg@10").to_numpy().tolist() == beside.to_numpy().tolist()
    assert side_by_side(rows, "작은 모델", "BM25", "spearman").empty


def test_settings_are_shown_as_they_were_written():
    row = Row("m", "d", "measured", {"ndcg@10": 0.5}, settings={"prompts": ["검색: ", 1], "top": None})
    assert rows_table([row])["settings"].tolist() == ['{"prompts": ["검색: ", 1]}']
    assert list(rows_table([row]).columns[2:5]) == ["kind", "ndcg@10", "split"]
    assert facts_table({"m": row})["m"].to_dict() == {"kind": "measured", "settings.prompts": '["검색: ", 1]'}


def test_the_newest_measurement_counts():
    rows = [
        Row("m", "d", "measured", {"ndcg@10": v}, date=f"2026-01-0{day}", seed=day)
        for v, day in ((0.1, 1), (0.2, 3), (0.3, 2))
    ]
    rows.append(Row("m", "d", "published", {"ndcg@10": 0.4}, date="2026-02-01"))
    assert newest(rows, "m", "d").metrics["ndcg@10"] == 0.2 and newest(rows, "m", "other") is None


def test_wins_losses_and_ties():
    table = query_differences(results((1.0, 0.0, 1.0)), results((0.5, 1.0, 1.0)), "ndcg@10")
    assert list(zip(table["id"], table["result"], strict=True)) == [("q2", "loss"), ("q1", "win"), ("q3", "tie")]
    assert table["difference"].tolist() == [-1.0, 0.5, 0.0]
    assert query_differences([], results((1.0, 1.0, 1.0)), "ndcg@10").empty


def test_empty_page_says_what_to_do(page, tmp_path):
    app = page(tmp_path / "nothing", "--published", str(tmp_path / "none.jsonl"))
    assert not app.exception and "Run lesson 05" in app.info[0].value and not app.dataframe
    app = page(tmp_path / "nothing")
    assert not app.exception and "No results yet" in app.info[0].value
    assert set(app.dataframe[0].value["kind"]) == {"published"} and len(app.dataframe[0].value) == 15
    app.selectbox(key="second").set_value("mGTE").run()  # published figures compare with one another
    assert not app.exception and "AutoRAG-benchmark" in app.selectbox(key="dataset").options


def test_mteb_s_figures_stand_beside_published_ones(page, tmp_path):
    scores = {f"{name}_at_{k}": k / 20 for name in ("ndcg", "mrr", "recall", "map") for k in (1, 3, 5, 10)}
    metrics = leaderboard_metrics(scores | {"main_score": 0.5})
    assert {name: metrics[name] for name in metrics if name.startswith("ndcg")} == {
        "ndcg@1": 0.05,
        "ndcg@3": 0.15,
        "ndcg@10": 0.5,
    }
    assert leaderboard_metrics({"cosine_spearman": 0.4, "spearman": 0.4, "main_score": 0.4}) == {"spearman": 0.4}
    save_row(tmp_path, Row("ours", "AutoRAGRetrieval", "measured", metrics, date="2026-01-02T03:04:05+00:00"))
    rows = [*read_rows(tmp_path / "rows.jsonl"), *read_rows(REPOSITORY / "sample_data/published/koe5.jsonl")]
    beside = side_by_side(rows, "ours", "KoE5", "ndcg@3")
    assert beside.index.tolist() == ["AutoRAG-benchmark"] and beside["ours"].tolist() == [0.15]
    assert published_on(rows, "ours", beside.index) + published_on(rows, "KoE5", beside.index) == [
        False,
        True,
    ]
    drawn = bars(beside, {"ours": [False], "KoE5": [True]}, "ndcg@3").data
    assert [(bar.text[0][5:], bar.marker.pattern.shape[0]) for bar in drawn] == [("", ""), (" published", "/")]
    app = page(tmp_path)
    app.selectbox(key="second").set_value("KoE5").run()
    assert not app.exception and app.selectbox(key="metric").value == "ndcg@1"  # ndcg@10 only ours has
    assert app.selectbox(key="dataset").options == ["AutoRAG-benchmark"]
    assert list(app.dataframe[0].value.columns[:3]) == ["model", "dataset", "kind"]
    assert "AutoRAGRetrieval" not in app.multiselect(key="datasets").options


def test_damaged_results_are_named(page, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"model": "m"}\n', encoding="utf-8")
    app = page(tmp_path)
    assert not app.exception and "lacks a key" in app.error[0].value and "line 1" in app.error[0].value


def test_scores_of_other_queries_are_not_set_beside_one_another(page, tmp_path):
    for model, split, queries, score in (("a", "test", 131, 0.5), ("b", "train", 20, 0.9), ("b", "test", 131, 0.4)):
        date = f"2026-01-0{2 if split == 'train' else 1}T00:00:00+00:00"
        save_row(tmp_path, Row(model, "hansol", "measured", {"ndcg@10": score}, split, queries, date=date))
    app = page(tmp_path, "--published", str(tmp_path / "none.jsonl"))
    assert not app.exception and list(app.selectbox(key="dataset").options) == ["hansol, test, 131 queries"]


def test_damaged_queries_are_named(page, board):
    path = next((board / "queries").iterdir())
    path.write_text('{"query": "q1"}\n', encoding="utf-8")
    app = page(board)
    assert not app.exception and "lacks a key" in app.error[0].value and path.name in app.error[0].value


def test_sort_filter_and_compare(page, board):
    app = page(board)
    assert not app.exception and not app.error
    whole = app.dataframe[0].value
    assert len(whole) == 18 and whole["ndcg@10"].dropna().is_monotonic_decreasing
    assert list(whole.columns[:4]) == ["model", "dataset", "kind", "ndcg@10"] and set(METRICS) < set(whole.columns)
    app.radio(key="order").set_value("worst first").run()
    assert app.dataframe[0].value["ndcg@10"].dropna().is_monotonic_increasing
    app.multiselect(key="kinds").set_value(["measured"]).run()
    app.multiselect(key="datasets").set_value(["hansol"]).run()
    assert set(app.dataframe[0].value["model"]) == {"작은 모델", "BM25"}
    app.text_input(key="name").set_value("bm").run()
    assert list(app.dataframe[0].value["model"]) == ["BM25"]
    app.text_input(key="name").set_value("nobody").run()
    assert "No row fits" in app.warning[0].value and not app.exception


def test_queries_of_two_models_with_their_texts(page, board):
    app = page(board)
    app.selectbox(key="first").set_value("작은 모델").run()
    app.selectbox(key="second").set_value("BM25").run()
    app.selectbox(key="metric").set_value("ndcg@10").run()
    assert [each.value for each in app.metric] == ["1", "1", "1"]
    assert app.dataframe[1].value["query"].tolist() == ["도서관은 몇 시에 여나요"]
    app.radio(key="show").set_value("losses").run()
    assert app.dataframe[1].value["query"].tolist() == ["쓰레기봉투 값"]
    assert "종량제 봉투는 한 장에 490원입니다" in app.table[0].value["text"].tolist()
    ours, theirs = (table.value for table in app.table[1:3])
    assert ours["✔"].tolist()[0] == "" and theirs["✔"].tolist()[0] == "✔"
    app.selectbox(key="second").set_value("KoE5").run()
    assert not app.exception and "not scored on the same test" in app.info[0].value
    assert "hansol" in app.info[0].value and "Ko-StrategyQA" in app.info[0].value
    app.selectbox(key="second").set_value("작은 모델").run()
    assert not app.exception and "two different models" in app.info[0].value


def test_one_model_has_nothing_to_be_compared_with(page, tmp_path):
    save_row(tmp_path, Row("m", "d", "measured", {"ndcg@10": 0.5}))
    app = page(tmp_path, "--published", str(tmp_path / "none.jsonl"))
    assert not app.exception and "one model so far" in app.info[0].value and len(app.dataframe[0].value) == 1


def test_the_second_model_is_one_that_compares(page, tmp_path):
    for model, dataset in (("a", "hansol"), ("b", "STS"), ("c", "hansol")):
        save_row(tmp_path, Row(model, dataset, "measured", {"ndcg@10": 0.5}))
    app = page(tmp_path)
    assert (app.selectbox(key="first").value, app.selectbox(key="second").value) == ("a", "c") and not app.exception


def test_rows_that_were_asked_other_queries_are_said_not_to_compare(page, board):
    other = [replace(result, query=f"x{result.query}") for result in results((1.0, 1.0, 1.0))]
    row = Row("다른 질의", "hansol", "measured", dict.fromkeys(METRICS, 1.0), date="2026-01-02T03:04:05+00:00")
    for kept, said in ((other, "Only 0 queries"), ([*results((1.0, 1.0, 1.0))[:2], other[2]], "Only 2 queries")):
        save_row(board, row, kept)
        app = page(board)
        app.selectbox(key="second").set_value("다른 질의").run()
        assert not app.exception and said in app.warning[0].value and "do not compare" in app.warning[0].value
    app.selectbox(key="second").set_value("작은 모델").run()
    assert not app.warning


def test_queries_of_one_wording_are_told_apart(page, tmp_path):
    for model, score in (("a", 1.0), ("b", 0.0)):
        kept = [replace(result, text="같은 질의") for result in results((score, score, score))]
        save_row(tmp_path, Row(model, "d", "measured", {"ndcg@10": score}), kept)
    app = page(tmp_path)
    assert app.selectbox(key="query").options == [f"같은 질의 ({query})" for query in QUERIES]
    app.selectbox(key="query").set_value("q2").run()
    assert app.table[0].value["text"].tolist() == [QUERIES["q2"][1]]


def test_how_models_were_trained_is_shown(page, tmp_path):
    rows = {}
    for model, lr in (("a", 0.1), ("b", 0.2)):
        start = {"model": "base", "weights": "w", "training": None}
        training = dict(recipe=f"lesson of {model}", start=start, data={"rows.jsonl": "0f"}, seed=7, processes=1)
        training |= dict(settings={"lr": lr, "lora_r": 16}, hardware="test", date="2026", versions={}, weights=model)
        rows[model] = Row(model, "d", "measured", {"ndcg@10": lr}, settings={"top": 100}, training=training)
        save_row(tmp_path, rows[model])
    apart = facts_table(rows, differing=True)
    assert set(apart.index) == {"training.recipe", "training.settings.lr", "training.weights"}
    assert apart.loc["training.settings.lr"].to_dict() == {"a": "0.1", "b": "0.2"}
    assert facts_table({"a": rows["a"]}).loc["training.data.rows.jsonl", "a"] == "0f"

    app = page(tmp_path, "--published", str(tmp_path / "none.jsonl"))
    assert not app.exception and app.dataframe[0].value["training"].tolist() == ["lesson of b", "lesson of a"]
    assert app.dataframe[1].value.equals(apart)
    app.selectbox(key="open").set_value(rows["b"].key).run()
    measured, trained = (app.dataframe[place].value["b"] for place in (1, 2))
    assert measured["settings.top"] == "100" and not [fact for fact in measured.index if "training" in fact]
    assert trained["training.seed"] == "7" and trained["training.settings.lora_r"] == "16"
    save_row(tmp_path, replace(rows["b"], training=None))
    app = page(tmp_path, "--published", str(tmp_path / "none.jsonl"))
    app.selectbox(key="open").set_value(rows["b"].key).run()
    assert not app.exception and any("no record" in caption.value for caption in app.caption)


@pytest.mark.browser
def test_in_a_real_browser(board, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = ["--server.headless", "true", "--browser.gatherUsageStats", "false", "--server.address", "127.0.0.1"]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(PAGE),
        "--server.port",
        str(port),
        *quiet,
        "--",
        "--results",
        str(board),
    ]
    with open(tmp_path / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
    try:
        wait_for(f"http://127.0.0.1:{port}/_stcore/health", server)
        with open_browser() as browser:
            tab = browser.new_page(viewport={"width": 1300, "height": 2300})
            tab.set_default_timeout(90_000)
            tab.goto(f"http://127.0.0.1:{port}")
            tab.get_by_text("Query by query").wait_for()
            tab.get_by_text("도서관은 아침 아홉 시에 엽니다").first.wait_for()
            tab.locator(".js-plotly-plot .barlayer .point").first.wait_for()
            tab.locator(".js-plotly-plot .polarlayer path").first.wait_for()
            text = tab.inner_text("body")
            assert "3 rows measured here" in text and "15 published by others" in text and "Traceback" not in text
            assert text.split("Embedding leaderboard")[0].count("\n") < 12, "something stands above the title"
            wider = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wider <= 0, "the page scrolls sideways"
            tab.screenshot(path=tmp_path / "leaderboard.png", full_page=True)
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address, server, seconds=120):
    """Until the server answers; fails at once when it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended before it answered"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer from {address} in {seconds} s")

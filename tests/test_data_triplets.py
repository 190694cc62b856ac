"""Triplets: what must hold for any table, and what must hold for the command and its files."""

import json
import unicodedata
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.course.errors import InputError
from helpers.course.files import read_table, sample_data
from helpers.course.tables import write_table
from helpers.data import columns as columns_module
from helpers.data.columns import read_source
from helpers.data.triplet_making.files import file_names
from helpers.data.triplet_making.sets import SAME, TOO_SMALL
from helpers.data.triplets import Columns, basic, by_domain, domainwise, fused, main, write_set

COLUMNS = Columns("desc", "category", ("name", "question"), "domain")
NAMES = ["domain", "category", "desc", "name", "question"]
EXAMPLES = 60
WORDS = ["", "가", "나", "다", "라", "a", "A", " 가 ", "가  나", unicodedata.normalize("NFD", "가"), "\u200b"]

cells = st.sampled_from(WORDS)
rows = st.lists(
    st.tuples(st.sampled_from(["금융", "통신", ""]), st.sampled_from(["예금", "카드", ""]), cells, cells, cells),
    min_size=1,
    max_size=24,
)
widenings = st.sampled_from(["none", "domain", "file"])
sources = st.sampled_from(["positive", "anchor"])


def frame(table):
    """A table with one more row that has every cell, so that no column is empty throughout."""
    return pl.DataFrame([*table, ("여행", "숙박", "설명", "이름", "질문")], schema=NAMES, orient="row")


def known(made, positives):
    """{anchor: texts that may not be its negatives}, taken from the table itself, row by row."""
    found = {}
    for row in made.table.iter_rows(named=True):
        texts = [row[name] for name in positives if row[name]]
        fusion = ", ".join(f"{name}: {row[name]}" for name in positives if row[name])
        found.setdefault(row["desc"], {row["desc"]}).update(texts, [fusion])
    return found


def negatives(made):
    return made.supervised.select(pl.col("^negative.*$")).rows()


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows, widenings, sources, st.integers(0, 2**32 - 1))
def test_basic_never_gives_a_positive_or_the_anchor_and_loses_nothing(table, widen, source, seed):
    made = basic(frame(table), COLUMNS, seed=seed, widen=widen, negatives_from=source)
    forbidden = known(made, COLUMNS.positives)
    assert made.supervised.height + made.rejected.height == made.table.height * len(COLUMNS.positives)
    units = list(zip(made.sources.tolist(), made.supervised["positive"].to_list(), strict=True))
    for (row, positive), anchor, (negative,) in zip(units, made.supervised["anchor"], negatives(made), strict=True):
        assert made.table["desc"][row] == anchor
        assert positive in {made.table[name][row] for name in COLUMNS.positives}
        assert negative and negative not in forbidden[anchor]
    drawn = made.supervised.with_columns(row=made.sources).group_by("row").agg(pl.col("negative").is_unique().all())
    assert drawn["negative"].all(), "a negative came twice in one row"


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    rows, widenings, sources, st.integers(1, 4), st.sampled_from([("name", "question"), ("name",)]), st.integers(0, 99)
)
def test_fused_gives_different_negatives_that_are_no_positive(table, widen, source, count, positives, seed):
    columns = replace(COLUMNS, positives=positives)
    made = fused(frame(table), columns, num_negatives=count, seed=seed, widen=widen, negatives_from=source)
    forbidden = known(made, positives)
    assert made.supervised.height + made.rejected.height == made.table.height
    assert len(set(made.sources.tolist())) == made.supervised.height, "one line for each anchor row"
    for anchor, drawn in zip(made.supervised["anchor"], negatives(made), strict=True):
        assert len(drawn) == len(set(drawn)) == count
        assert not forbidden[anchor] & set(drawn)


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows, st.integers(0, 99))
def test_a_rejected_pair_really_had_no_candidate_left(table, seed):
    """Without slots that compete for one text (one positive column), `too small` must be the truth, never bad luck."""
    columns = Columns("desc", "category", ("name",))
    made = basic(frame(table), columns, seed=seed)
    forbidden = known(made, columns.positives)
    for row, _, reason in made.rejected.iter_rows():
        cells = made.table.row(row, named=True)
        texts = (
            set(made.table.filter(pl.col("category") == cells["category"])["name"]) - forbidden[cells["desc"]] - {""}
        )
        sound = cells["desc"] and cells["category"] and cells["name"] not in ("", cells["desc"])
        assert bool(sound) == (reason == TOO_SMALL)
        assert not (sound and texts)
    for row in made.sources:
        assert made.table["name"][int(row)]


def most_pairs(made, row):
    """How many pairs of a row could have a negative, no negative twice: every assignment is tried."""
    forbidden, cells = known(made, COLUMNS.positives)[made.table["desc"][row]], made.table.row(row, named=True)
    same = made.table.filter(pl.col("category") == cells["category"])
    wanted = [name for name in COLUMNS.positives if cells[name] not in ("", cells["desc"])]
    options = [[None, *(set(same[name]) - forbidden - {""})] for name in wanted]
    drawn = ([text for text in choice if text is not None] for choice in product(*options))
    return max(len(texts) for texts in drawn if len(set(texts)) == len(texts))


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows, st.integers(0, 99))
def test_as_many_pairs_are_made_as_there_can_be(table, seed):
    made = basic(frame(table), COLUMNS, seed=seed)
    for row in made.table.with_row_index("row").filter((pl.col("category") != "") & (pl.col("desc") != ""))["row"]:
        assert int((made.sources == row).sum()) == most_pairs(made, row)


@pytest.mark.parametrize("seed", range(12))
def test_columns_that_compete_for_a_text_exchange_theirs(seed):
    """Row A has x and y for its name but only x for its question: the name has to leave x."""
    table = pl.DataFrame(
        {"category": ["예금"] * 3, "desc": ["A", "B", "C"], "name": ["n1", "x", "y"], "question": ["q1", "x", "x"]}
    )
    made = basic(table, Columns("desc", "category", ("name", "question")), seed=seed)
    assert made.supervised.filter(pl.col("anchor") == "A")["negative"].to_list() == ["y", "x"]


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows, st.integers(0, 99))
def test_the_same_seed_gives_the_same_triplets(table, seed):
    first, second = (fused(frame(table), COLUMNS, num_negatives=2, seed=seed, widen="file") for _ in range(2))
    assert first.supervised.equals(second.supervised)
    assert first.rejected.equals(second.rejected)


def test_another_seed_gives_other_triplets():
    table = read_table(sample_data("products", "products.csv"))
    columns = Columns("description", "category", ("name", "question"), "domain")
    for method in (basic, fused):
        one, other = (method(table, columns, seed=seed).supervised for seed in (1, 2))
        assert one["anchor"].equals(other["anchor"]) and not one.equals(other)


def test_fused_keeps_the_categories_of_two_domains_apart():
    table = small(domain=["금융"] * 3 + ["통신"] * 3, category=["예금"] * 6)
    made = fused(table, COLUMNS, num_negatives=2)
    for row, drawn in zip(made.sources.tolist(), negatives(made), strict=True):
        assert all(text[8] in ("123" if row < 3 else "456") for text in drawn)  # name: 이름1, ...
    with pytest.raises(InputError, match="too few negatives"):
        fused(table, COLUMNS, num_negatives=0)


@settings(max_examples=EXAMPLES, deadline=None)
@given(rows, st.integers(0, 99))
def test_domains_partition_the_rows_and_draw_only_inside(table, seed):
    sets = domainwise(frame(table), COLUMNS, seed=seed)
    assert sum(made.table.height for made in sets.values()) == len(table) + 1
    for domain, made in sets.items():
        assert made.supervised.height + made.rejected.height == made.table.height * 2
        if not domain:
            assert made.supervised.height == 0
        inside = set(made.table["name"]) | set(made.table["question"])
        assert all(negative in inside for (negative,) in negatives(made))


def small(**changes):
    table = {
        "domain": ["금융"] * 6,
        "category": ["예금"] * 5 + ["카드"],
        "desc": ["설명 하나", "설명 둘", "설명 셋", "설명 넷", "설명 하나", "설명 여섯"],
        "name": ["이름1", "이름2", "이름3", "이름4", "이름5", "이름6"],
        "question": ["질문1", "질문2", "질문3", "", "질문5", "질문6"],
    }
    return pl.DataFrame(table | changes)


def test_what_could_not_be_made_says_why():
    made = basic(small(), COLUMNS)
    reasons = {(row, column): reason for row, column, reason in made.rejected.iter_rows()}
    assert reasons == {
        (3, "question"): "the positive is empty",
        (5, "name"): "the category has no other text left for a negative",
        (5, "question"): "the category has no other text left for a negative",
    }
    assert made.small_categories().rows() == [("금융", "카드", 1, 2)]
    alike = basic(small(), replace(COLUMNS, category="domain", domain="domain"))  # both are one column
    assert alike.small_categories().columns == ["domain", "rows", "missing"]
    assert fused(small(), alike.columns).rejected.height and len(domainwise(small(), alike.columns)) == 1
    assert set(made.sources[made.supervised["anchor"].to_numpy() == "설명 하나"].tolist()) == {0, 4}


def test_a_repeated_anchor_never_gets_the_other_rows_positive():
    """Rows 0 and 4 share the anchor, so 이름5 is a positive of row 0 too; by rows alone a quarter would be wrong."""
    pairs = [basic(small(), COLUMNS, seed=seed).supervised for seed in range(40)]
    drawn = pl.concat(pairs).filter((pl.col("anchor") == "설명 하나") & pl.col("positive").str.starts_with("이름"))
    assert drawn.height == 80
    assert set(drawn["negative"]) == {"이름2", "이름3", "이름4"}


def test_draws_are_uniform_over_what_is_allowed():
    rows = np.arange(18_000)
    table = pl.DataFrame({"desc": [f"설명 {row}" for row in rows], "name": [f"이름{row % 6}" for row in rows]})
    made = basic(table.with_columns(category=pl.lit("예금")), Columns("desc", "category", ("name",)))
    counts = np.zeros((6, 6))
    np.add.at(counts, (made.sources % 6, made.supervised["negative"].str.tail(1).cast(int).to_numpy()), 1)
    assert np.diag(counts).sum() == 0
    away = counts[~np.eye(6, dtype=bool)]
    assert abs(away - 600).max() < 5 * np.sqrt(600 * 0.8), "five standard deviations"


def test_a_text_that_stands_often_is_drawn_no_more_often():
    names = ["가"] * 900 + ["나", "다", "라"] * 100
    table = pl.DataFrame({"desc": [f"설명 {row}" for row in range(1200)], "name": names, "category": ["예금"] * 1200})
    made = basic(table, Columns("desc", "category", ("name",)))
    drawn = made.supervised.filter(pl.col("positive") == "나")["negative"].value_counts()
    assert dict(drawn.iter_rows()).keys() == {"가", "다", "라"} and drawn["count"].max() < 50


def test_the_last_few_texts_left_are_drawn_alike():
    """Of 502 texts an anchor may have two: hardly a draw hits them, so they are listed, and drawn from the list."""
    table = pl.DataFrame({"desc": ["같은 설명"] * 500 + ["딴 설명"] * 2, "name": [f"이름{row}" for row in range(502)]})
    made = basic(table.with_columns(category=pl.lit("예금")), Columns("desc", "category", ("name",)))
    counts = dict(made.supervised.filter(pl.col("anchor") == "같은 설명")["negative"].value_counts().iter_rows())
    assert counts.keys() == {"이름500", "이름501"} and min(counts.values()) > 200


def test_widening_reaches_further_and_counts_it():
    table = small(domain=["금융"] * 3 + ["통신"] * 3, category=["예금", "카드", "대출", "요금", "요금", "요금"])
    none, domain, whole = (basic(table, COLUMNS, widen=widen) for widen in ("none", "domain", "file"))
    assert none.widened == 0 and none.supervised.height == 5
    assert domain.widened == 6 and domain.supervised.height == 11
    rows = pl.Series(domain.sources)
    assert set(domain.supervised.filter(rows < 3)["negative"]) <= {"이름1", "이름2", "이름3", "질문1", "질문2", "질문3"}
    assert whole.supervised.height == 11  # and what the domain has is taken before the file's
    assert whole.supervised.filter(pl.Series(whole.sources) < 3)["negative"].str.contains("[123]$").all()
    with pytest.raises(InputError, match="column of domains"):
        basic(table, Columns("desc", "category", ("name",)), widen="domain")


def test_equal_texts_in_another_form_count_as_equal():
    """NFD, double spaces and zero-width characters make strings unequal, not texts."""
    other = unicodedata.normalize("NFD", "이름1") + "\u200b "
    made = basic(
        small(name=["이름1", other, "이름3", "이름4", "이름5", "이름6"], desc=["설명"] * 2 + list("가나다라")), COLUMNS
    )
    assert made.changed == 1
    assert made.table["name"].to_list()[:2] == ["이름1", "이름1"]
    assert "이름1" not in set(made.supervised.filter(pl.col("anchor") == "설명")["negative"])


def test_unsupervised_texts_name_every_cell_and_leave_out_empty_ones():
    texts = pl.concat(basic(small(), COLUMNS).texts(size=2))["text"]
    assert texts[0] == "domain: 금융, category: 예금, desc: 설명 하나, name: 이름1, question: 질문1"
    assert texts[3] == "domain: 금융, category: 예금, desc: 설명 넷, name: 이름4"


def test_negatives_from_the_anchor_column():
    made = basic(small(), COLUMNS, negatives_from="anchor")
    assert set(made.supervised["negative"]) <= set(small()["desc"])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (Columns("설명", "category", ("name",)), ["no such column", "설명", "desc"]),
        (Columns("desc", "category", ()), ["positive columns", "none"]),
        (Columns("desc", "category", ("name", "name")), ["positive columns", "name, name"]),
        (Columns("desc", "category", ("desc",)), ["positive columns", "anchor column 'desc'"]),
    ],
)
def test_columns_that_do_not_fit_are_named(columns, words):
    with pytest.raises(InputError) as error:
        basic(small(), columns)
    assert all(word in str(error.value) for word in words)


def test_a_column_of_blanks_is_empty():
    with pytest.raises(InputError, match="empty in every row"):
        basic(small(name=[" ", "\u200b", "", "\t", "", "\u3000"]), COLUMNS)


def test_numbers_are_no_text():
    with pytest.raises(InputError, match="holds no text"):
        basic(pd.DataFrame({"desc": ["가"], "category": ["나"], "name": [1]}), Columns("desc", "category", ("name",)))


def test_columns_of_mixed_kinds_are_no_text():
    table = pd.DataFrame({"desc": ["가", None], "category": ["나", "나"], "name": ["다", 1]}, dtype=object)
    with pytest.raises(InputError, match=r"(?s)holds no text.*column name.*mixed"):
        basic(table, Columns("desc", "category", ("name",)))


def test_a_table_of_one_row_gives_no_triplet_and_says_why():
    alone = pl.DataFrame([("가", "예금", "가", "나")], schema=["desc", "category", "name", "question"], orient="row")
    made = basic(alone, Columns("desc", "category", ("name", "question")))
    assert made.supervised.height == 0
    assert made.rejected.rows() == [(0, "name", SAME), (0, "question", TOO_SMALL)]


def test_a_table_without_rows_is_called_that():
    with pytest.raises(InputError, match="this table has no row"):
        basic(small().clear(), COLUMNS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widen": "domian"}, r"(?s)widen.*domian.*none, domain, file"),
        ({"negatives_from": "anchors"}, r"(?s)negatives_from.*anchors.*positive, anchor"),
        ({"seed": -1}, r"(?s)seed.*-1"),
    ],
)
def test_a_value_that_does_not_exist_is_not_the_default(options, words):
    for method in (basic, domainwise, fused):
        with pytest.raises(InputError, match=words):
            method(small(), COLUMNS, **options)


def command(method, data, *more, positives=("name", "question")):
    told = ["--data_path", data, "--desc_col", "desc", "--category_col", "category", "--positive_cols", *positives]
    return main([method, *map(str, told), *map(str, more)])


@pytest.fixture
def products(tmp_path):
    path = tmp_path / "표.csv"
    small().write_csv(path)
    return path


def test_the_command_writes_both_files_and_keeps_what_it_refused(products, tmp_path, capsys):
    texts, triplets = tmp_path / "texts.csv", tmp_path / "triplets.jsonl"
    (written,) = command("basic", products, "--output_unsupervised", texts, "--output_supervised", triplets)
    assert list(pd.read_csv(texts)) == ["text"] and len(pd.read_csv(texts)) == written.texts == 6
    lines = [json.loads(line) for line in triplets.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == written.triplets == 9 and list(lines[0]) == ["anchor", "positive", "negative"]
    rejected = [json.loads(line) for line in written.rejected.read_text(encoding="utf-8").splitlines()]
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (5, "the positive is empty: question"),
        (7, "the category has no other text left for a negative: name, question"),
    ]
    assert rejected[0]["row"]["desc"] == "설명 넷"
    said = capsys.readouterr().out
    assert "9 written of 12 possible" in said and "'카드'" in said and "rows/s" in said


def test_the_command_takes_columns_parted_by_commas(products, tmp_path):
    (written,) = command("basic", products, "--output_supervised", tmp_path / "a.csv", positives=["name,question"])
    assert written.triplets == 9


def test_the_command_writes_a_file_for_each_domain(tmp_path):
    data = tmp_path / "data.csv"
    small(domain=["금/융", "금/융", "금 융", "금 융", "금 융", ""], category=["예금"] * 6).write_csv(data)
    written = command("domainwise", data, "--domain_col", "domain", "--output_dir", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [path for path in names if path.endswith("_supervised.csv")] == [
        "without_domain_supervised.csv",
        "금_융_2_supervised.csv",
        "금_융_supervised.csv",
    ]
    assert sum(each.texts for each in written) == 6
    assert sum(each.triplets for each in written) == 9
    kept = (tmp_path / "out/without_domain_supervised.csv.rejected.jsonl").read_text(encoding="utf-8")
    assert "the domain is empty" in kept and "설명 여섯" in kept


@pytest.mark.parametrize("domain", ["금융", "all"])
def test_a_malformed_row_is_kept_once_though_it_has_no_domain(tmp_path, domain):
    data, out = tmp_path / "data.csv", tmp_path / "out"
    table = small(domain=[domain] * 3 + ["통신"] * 3, category=["예금"] * 6)
    data.write_text(table.write_csv() + "줄,이,짧다\n", encoding="utf-8")
    command("domainwise", data, "--domain_col", "domain", "--output_dir", out)
    kept = [path.name for path in out.glob("*.rejected.jsonl") if "짧다" in path.read_text(encoding="utf-8")]
    assert kept == ["without_domain_supervised.csv.rejected.jsonl"] and (out / f"{domain}_supervised.csv").exists()


def test_nothing_is_written_where_one_of_the_domains_would_overwrite_the_input(tmp_path):
    data = tmp_path / "통신_supervised.csv"
    small(domain=["금융"] * 3 + ["통신"] * 3, category=["예금"] * 6).write_csv(data)
    with pytest.raises(InputError, match=r"overwrite the input"):
        command("domainwise", data, "--domain_col", "domain", "--output_dir", tmp_path)
    assert list(tmp_path.iterdir()) == [data]


def test_the_command_draws_negatives_from_the_anchors_where_it_is_told(products, tmp_path):
    command("basic", products, "--output_supervised", tmp_path / "a.csv", "--negatives_from", "anchor")
    assert set(read_table(tmp_path / "a.csv")["negative"]) <= set(small()["desc"])


def test_the_command_fuses(products, tmp_path):
    options = ["--output_supervised", tmp_path / "fused.parquet", "--num_negatives", 3]
    (written,) = command("fused", products, *options)
    table = pd.read_parquet(tmp_path / "fused.parquet")
    assert list(table) == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    assert table["positive"][0] == "name: 이름1, question: 질문1"
    assert len(table) == written.triplets == 5


def test_malformed_rows_are_kept_and_legacy_encodings_found(tmp_path, capsys):
    text = small().write_csv().replace("금융,예금,설명 둘", "금융,너무,많은,칸,예금,설명 둘").replace("이름1", "똠얌")
    (tmp_path / "옛.csv").write_bytes(text.encode("cp949"))
    (written,) = command("basic", tmp_path / "옛.csv", "--output_supervised", tmp_path / "t.csv")
    rejected = [json.loads(line) for line in written.rejected.read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in rejected] == [3, 5, 7]
    assert "8 fields" in rejected[0]["reason"]
    told = capsys.readouterr().out
    assert "(cp949)" in told and "rejected  1 x this row has 8 fields, the first line names " in told


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_triplets(products, tmp_path, ending):
    command("basic", products, "--output_dir", tmp_path / "out", "--format", ending)
    expected = basic(small(), COLUMNS).supervised.rows()
    table = read_table(tmp_path / f"out/all_supervised.{ending}")
    assert [tuple(row) for row in table.to_numpy()] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no output is named"),
        (["--output_supervised", "out.xlsx"], "no table can be written"),
        (["--output_supervised", "a.csv", "--output_dir", "b"], "either files or a folder"),
        (["--output_supervised", "a.csv", "--output_unsupervised", "a.csv"], "overwrite"),
        (["--output_supervised", "a.csv", "--output_unsupervised", "b/../a.csv"], "overwrite"),
        (["--output_supervised", "a.csv", "--output_unsupervised", "a.csv.rejected.jsonl"], "overwrite"),
        (["--output_supervised", "a.csv", "--widen", "domain"], "--domain_col"),
        (["--output_supervised", "a.csv", "--seed", "-1"], "a seed is a whole number"),
        (["--output_supervised", "a.csv", "--encoding", "utf-8-nonsense"], "encoding is not known"),
        (["--output_supervised", "a.csv", "--encoding", "latin-1"], "encoding is not known"),
    ],
)
def test_a_command_that_does_not_fit_is_refused_before_it_writes(products, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        command("basic", products, *options)
    assert list(tmp_path.iterdir()) == [products]


@pytest.mark.parametrize(
    ("name", "method", "outputs"),
    [
        ("p.csv.rejected.jsonl", "basic", ["--output_supervised", "p.csv"]),
        ("p.csv.rejected.jsonl", "basic", ["--output_unsupervised", "p.csv"]),
        ("all_supervised.csv", "basic", ["--output_dir", "."]),
        ("금융_unsupervised.csv", "domainwise", ["--output_dir", "new/..", "--domain_col", "domain"]),
        ("금융_supervised.csv.rejected.jsonl", "fused", ["--output_dir", ".", "--domain_col", "domain"]),
    ],
)
def test_the_input_is_never_overwritten_or_removed(tmp_path, monkeypatch, name, method, outputs):
    """Every pair of this table can be made, so an old file of rejects would be removed."""
    monkeypatch.chdir(tmp_path)
    path = write_table(tmp_path / name, small(category=["예금"] * 6, question=list("가나다라마바")).to_pandas())
    before = path.read_bytes()
    with pytest.raises(InputError, match="overwrite the input"):
        command(method, path, *outputs)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_the_function_behind_the_command_spares_the_input_too(products):
    source = read_source(products)
    with pytest.raises(InputError, match="overwrite the input"):
        write_set(basic(source.table, COLUMNS), source, None, products)


def test_a_long_domain_becomes_a_name_that_a_file_system_takes(tmp_path):
    names = file_names(["가" * 90, "가" * 91])
    assert list(names.values()) == ["가" * 50, "가" * 50 + "_2"]
    path = tmp_path / "a.csv"
    small(domain=["가" * 90] * 6).write_csv(path)
    written = command("domainwise", path, "--domain_col", "domain", "--output_dir", tmp_path / "out")
    assert [each.triplets for each in written] == [9]


def test_an_ending_in_capitals_is_the_same_ending(tmp_path):
    small().write_csv(tmp_path / "A.CSV")
    (written,) = command("basic", tmp_path / "A.CSV", "--output_supervised", tmp_path / "B.TSV")
    assert written.triplets == len(read_table(tmp_path / "B.TSV")) == 9


def test_a_stopped_run_leaves_the_old_file(products, tmp_path, monkeypatch):
    target = tmp_path / "t.csv"
    target.write_text("old", encoding="utf-8")

    def fail(*_, **__):
        raise OSError("no space left on the device")

    monkeypatch.setattr(pl.DataFrame, "write_csv", fail)
    with pytest.raises(InputError, match=r"(?s)t\.csv.*no space"):
        command("basic", products, "--output_supervised", target)
    assert target.read_text(encoding="utf-8") == "old"
    assert not list(tmp_path.glob(".t.csv*"))


def test_the_sample_products_give_every_triplet():
    table = read_table(sample_data("products", "products.csv"))
    columns = Columns("description", "category", ("name", "features", "target", "question"), "domain")
    assert basic(table, columns).supervised.height == 4 * len(table)
    sets = by_domain(fused(table, columns))
    assert len(sets) == 6 and all(made.rejected.height == 0 for made in sets.values())


def test_a_header_in_nfd_is_the_same_header(tmp_path):
    names = [unicodedata.normalize("NFD", name) for name in ("설명", "분류", "이름")]
    path = tmp_path / "a.csv"
    path.write_text(",".join(names) + "\n가,나,다\n라,나,마\n", encoding="utf-8")
    columns = Columns("설명", names[1], ("이름",))
    assert read_source(path).table.columns == ["설명", "분류", "이름"]
    for table in (read_source(path).table, pd.read_csv(path, dtype="str")):
        assert basic(table, columns).supervised["negative"].to_list() == ["마", "다"]
    path.write_text(f"{names[0]},설명\n가,나\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)look the same.*설명"):
        read_source(path)


def test_a_table_of_which_no_row_can_be_used_says_why(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n가,나,다\n라,마,바\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)no row that can be used.*line 2.*2 rows were refused.*3 fields"):
        read_source(path)


def test_json_lines_of_which_none_can_be_used_say_why(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps([{"a": "가"}], indent=1, ensure_ascii=False), encoding="utf-8"
    )  # JSON, but no JSON lines
    with pytest.raises(
        InputError, match=r"(?s)no line of this table can be used.*a\.jsonl, line 1.*5 lines were refused"
    ):
        read_source(path)


def test_a_null_byte_is_refused_as_the_careful_reader_refuses_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n3,\x004\n")
    messages = []
    for read in (read_source, read_table):
        with pytest.raises(InputError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


PARTS = [
    "a",
    "가",
    ",",
    ",",
    "\n",
    "\r\n",
    "\r",
    '"',
    '""',
    '"a,b"',
    '"x""y"',
    '"x\r\ny"',
    " ",
    "\ufeff",
    "a_duplicated_0",
]


def told(path):
    """What a table holds, or what is wrong with it."""
    try:
        source = read_source(path)
    except InputError as error:
        return str(error)
    return source.table.to_dict(as_series=False), source.encoding, source.rejects.rows


@settings(max_examples=EXAMPLES, deadline=None)
@example('c1,"c""2"\n1,2\n')
@example("a,b\n1,x\ry\n")
@example('a,b\n1,"x"y\n')
@example("a,b\n1,2,")
@given(st.lists(st.sampled_from(PARTS), max_size=12).map(lambda parts: "a,b\n" + "".join(parts)))
def test_the_fast_way_reads_what_the_careful_way_reads(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_module, "_fast", lambda path: None)
        careful = told(path)
    assert told(path) == careful

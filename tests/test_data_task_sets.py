"""From sources to a set: what is read, drawn, refused, balanced and written, for our rows and for the public sets."""

import pytest

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, sample_data, write_jsonl
from helpers.course.rejects import Rejects
from helpers.data.instruction_tasks.leakage import zero_shot_texts
from helpers.data.instruction_tasks.rows import split_options, split_parts
from helpers.data.tasks import (
    TASKS,
    build,
    check_row,
    draw,
    main,
    make_set,
    read_all_phrasings,
    read_phrasings,
    read_sources,
)
from helpers.data.text import text_key
from tests.test_data_tasks import KEYS, ROWS, TEXT, row

READY = [row(key, text, good) for key, (text, good, _) in ROWS.items()]


def items_of(tmp_path, name, rows):
    rejects = Rejects(tmp_path / "out.jsonl")
    return read_sources([write_jsonl(tmp_path / name, rows)], rejects).items, rejects


@pytest.fixture(scope="module")
def phrasings():
    return read_all_phrasings(sample_data("tasks", "phrasings"), TASKS, least=100)


@pytest.fixture(scope="module")
def sample(tmp_path_factory, phrasings):
    rejects = Rejects(tmp_path_factory.mktemp("tasks") / "train.jsonl")
    return build(read_sources([sample_data("tasks", "source")], rejects).items, phrasings, rejects), rejects


def test_every_task_has_a_hundred_wordings_that_differ_after_normalisation(phrasings):
    assert list(phrasings) == KEYS
    for texts in phrasings.values():
        assert len(texts) == len({text_key(text) for text in texts}) == 100


def test_a_draw_depends_on_seed_task_and_name_alone_and_uses_most_wordings(phrasings):
    drawn = [draw(phrasings, "summarization", str(number), 13) for number in range(500)]
    assert drawn == [
        draw({"summarization": phrasings["summarization"]}, "summarization", str(n), 13) for n in range(500)
    ]
    assert len(set(drawn)) > 90 and drawn != [draw(phrasings, "summarization", str(n), 14) for n in range(500)]
    with pytest.raises(InputError, match="no wordings"):
        draw(phrasings, "poetry", "1", 13)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("요약해 줘.\n\n간추려 줘.\n", r"(?s)empty.*line 2"),
        ("요약해 줘.\n요약해줘!\n", r"(?s)line 1 already.*line 2"),
        ("요약해  줘.\n", "normal form"),
        ("요약해 줘.\n", "too few"),
    ],
)
def test_wordings_that_cannot_be_used_are_named(tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_phrasings(tmp_path / "a.txt", least=2)


def test_the_sample_gives_thirty_good_rows_of_every_task_and_refuses_none(sample):
    made, rejects = sample
    assert rejects.rows == []
    assert set(made.counts()) == set(KEYS) and min(made.counts().values()) >= 30
    assert all(
        check_row(each) is None and list(each) == ["instruction", "input", "output", "task"] for each in made.as_rows()
    )


def test_answers_of_the_sample_are_not_lopsided(sample):
    rows = sample[0].as_rows()
    for key in ("abstractive_qa_yes_no", "extractive_qa_yes_no", "answerability_classification"):
        answers = [each["output"] for each in rows if each["task"] == key]
        assert 0.3 < answers.count(answers[0]) / len(answers) < 0.7, key
    places = [split_options(split_parts(each["input"])["보기"]).index(each["output"])
              for each in rows if each["task"] == "extractive_qa_objective"]  # fmt: skip
    assert max(places.count(place) for place in set(places)) / len(places) < 0.5


def test_a_set_is_the_same_for_the_same_seed_and_another_for_another(phrasings):
    rejects = Rejects("unused.jsonl")
    items = read_sources([sample_data("tasks", "source")], rejects).items
    one, same, other = (build(items, phrasings, rejects, seed=seed).as_rows() for seed in (13, 13, 14))
    assert one == same and len(one) == len(other) and one != other
    fewer = build(items[: len(items) // 2], phrasings, rejects, seed=13).as_rows()
    assert all(each in one for each in fewer)


def test_a_bad_part_of_an_article_is_refused_and_the_others_stay(tmp_path, phrasings):
    article = {"id": "a", "title": "보관함", "text": TEXT, "summary": "짧다", "qa": [
        {"kind": "extractive_short", "question": "얼마인가?", "answer": "900원"},
        {"kind": "extractive_short", "question": "어디인가?", "answer": "2층"},
        {"kind": "riddle", "question": "무엇일까?"},
        {"kind": "unanswerable", "question": "누가 세웠나?", "answer": "모름"},
    ]}  # fmt: skip
    items, rejects = items_of(tmp_path, "articles.jsonl", [article, {"id": "b", "text": " "}, {"title": "이름 없음"}])
    made = build(items, phrasings, rejects)
    assert made.counts()["extractive_qa_subjective_short"] == made.counts()["title_generation"] == 1
    assert {entry["reason"] for entry in rejects.rows} == {
        "riddle: there is no kind 'riddle'",
        "article: text: is empty",
        "the row has no text under 'id'",
        "the summary is shorter than a third of the text",
        "the answer is not in the passage",
        "the question is called answerable, but its answer is not in the passage",
        "an unanswerable question has an answer",
    }
    assert {entry["line"] for entry in rejects.rows} == {1, 2, 3}


def test_repetitions_go_once_and_contradictions_go_both(tmp_path, phrasings):
    rows = [row("free_response", "", "안녕하세요.")] * 2
    rows += [row("abstractive_qa_yes_no", "질문: 맞나?", answer) for answer in ("예", "아니요")]
    rows += [row("paraphrasing", "비가 온다.", answer) for answer in ("비가 내린다.", "비 오는 중이다.")]
    items, rejects = items_of(tmp_path, "mine.jsonl", rows)
    made = build(items, phrasings, rejects)
    assert made.counts() == {"free_response": 1, "paraphrasing": 2}
    assert rejects.counts == {
        "the same input has another answer elsewhere": 2,
        "the same row stands in the set already": 1,
    }


BAD_PARTS = [
    ({"qa": None}, "qa: is no object with keys"),
    ({"qa": ["x"]}, "qa: is no object with keys"),
    ({"simplified": "x"}, "simplified: is no object with keys"),
    ({"paraphrase": None}, "paraphrase: is no object with keys"),
    ({"qa": [{"kind": "abstractive_short", "name": "가", "question": "무엇인가?", "answer": "물"}]},
     "abstractive_short: name: a row cannot set this field"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "reason"), BAD_PARTS)
def test_a_part_of_the_wrong_kind_is_refused_with_its_line_and_the_article_stays(tmp_path, phrasings, part, reason):
    good = {"id": "a", "title": "보관함", "text": TEXT}
    items, rejects = items_of(tmp_path, "articles.jsonl", [good, good | {"id": "b", "text": TEXT * 2} | part])
    assert [(entry["line"], entry["reason"]) for entry in rejects.rows] == [(2, reason)]
    assert build(items, phrasings, rejects).counts()["title_generation"] == 2


def test_a_finished_row_without_instruction_is_refused_where_no_wording_is_drawn(tmp_path, phrasings):
    rows = [row("free_response", "가", "나") | {"instruction": ""}, row("paraphrasing", "비가 온다.", "비가 내린다.")]
    items, rejects = items_of(tmp_path, "mine.jsonl", [*rows, rows[1] | {"instruction": "", "input": "눈이 온다."}])
    made = build(items, phrasings, rejects)
    assert made.counts() == {"paraphrasing": 2} and made.as_rows()[1]["instruction"] in phrasings["paraphrasing"]
    assert [(entry["line"], entry["reason"]) for entry in rejects.rows] == [
        (1, "the row has no instruction, and there are no wordings of its task")
    ]


def test_a_mix_that_names_itself_is_refused(tmp_path, phrasings):
    row_of_mix = {"input": "내일 비가 오는지 알려 줘", "output": "내일 비 여부"}
    rows = [row_of_mix | {"source": source} for source in ("mix_permissive", "sae4k")]
    items, rejects = items_of(tmp_path, "mix_permissive.jsonl", rows)
    assert len(items) == 1 and [entry["line"] for entry in rejects.rows] == [1]


def test_a_set_of_labels_that_we_wrote_is_read_again(tmp_path, phrasings):
    items, rejects = items_of(
        tmp_path, "mine.jsonl", [row("nsmc_sentiment", "참 좋다", label) for label in ("긍정", "좋음")]
    )
    assert [built.row["output"] for built in build(items, phrasings, rejects).rows] == ["긍정"]
    assert [entry["reason"] for entry in rejects.rows] == ["the label '좋음' is unknown"]


def test_free_rows_with_other_instructions_on_one_text_are_other_rows(tmp_path, phrasings):
    rows = [
        row("free_response", "비가 온다.", "네.") | {"instruction": said} for said in ("맞아?", "확인해 줘.", "맞아 ?")
    ]
    items, rejects = items_of(tmp_path, "mine.jsonl", rows)
    assert len(build(items, phrasings, rejects).rows) == 2
    assert rejects.counts == {"the same row stands in the set already": 1}


def test_limits_refuse_long_rows_and_balance_tasks(tmp_path, phrasings):
    rows = [row("paraphrasing", f"{number}번 비가 온다.", f"비가 {number}번 내린다.") for number in range(20)]
    items, rejects = items_of(tmp_path, "mine.jsonl", [*rows, row("free_response", "", "가" * 300)])
    made = build(items, phrasings, rejects, max_characters=200, most=5)
    assert made.counts() == {"paraphrasing": 5} and made.left_out == {"paraphrasing": 15}
    assert rejects.counts == {"the row has more than 200 characters": 1}
    with pytest.raises(InputError, match=r"(?s)too few rows.*given: +-1"):
        build(items, phrasings, rejects, most=-1)


PUBLIC = {
    "petition_title.jsonl": ({"instruction": "", "input": TEXT * 2, "output": "보관함 요금"}, {"title_generation": 1,
                             "title_to_contents": 1, "text_completion": 1}),
    "sae4k_pairs.jsonl": ({"utterance": "내일 비가 오는지 알려 줘", "argument": "내일 비 여부"},
                          {"text_simplification": 1, "summary_expansion": 1}),
    "sae4k_summarize.jsonl": ({"input": "내일 비가 오는지 알려 줘", "output": "내일 비 여부"},
                              {"text_simplification": 1, "summary_expansion": 1}),
    "law_articles.jsonl": ({"instruction": "법은 어떻게 정하나?", "output": "가" * 70}, {"abstractive_qa_subjective_long": 1}),
    "paraKQC_groups.jsonl": ({"sentences": ["비가 오나?", "비 오니?", "비 내려?"]}, {"paraphrasing": 2}),
    "kommongen.jsonl": ({"input": "비 온다", "output": "비가 온다.", "split": "dev"}, {"words_to_sentence": 1}),
    "chatbot_data.jsonl": ({"instruction": "심심해", "input": "", "output": "산책해요.", "label": 0}, {"free_response": 1}),
    "mix_permissive.jsonl": ({"input": "내일 비가 오는지 알려 줘", "output": "내일 비 여부", "source": "sae4k"},
                             {"text_simplification": 1, "summary_expansion": 1}),
    "3i4k_train.jsonl": ({"text": "비 와?", "label": 2, "label_text": "질문(question)"}, {"intent_classification": 1}),
    "petitions_category.jsonl": ({"title": "보관함", "text": TEXT, "label": "행정", "split": "train"}, {"petition_topic": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_sets_are_known_by_their_names(tmp_path, phrasings, name):
    given_row, expected = PUBLIC[name]
    items, rejects = items_of(tmp_path, name, [given_row, {"other": 1}])
    assert build(items, phrasings, rejects).counts() == expected
    assert len(rejects) == 1 and rejects.rows[0]["line"] == 2


def test_reviews_become_a_task_and_held_out_sides_are_left_alone(tmp_path, phrasings):
    (tmp_path / "nsmc_train.tsv").write_text(
        'id\tdocument\tlabel\n1\t"참 좋다\t1\n2\t별로\t0\n3\t\t1\n4\t음\t7\n', encoding="utf-8"
    )
    held = {"title": "가", "label": "나", "split": "test"}
    write_jsonl(tmp_path / "petitions_category.jsonl", [held])
    rejects = Rejects(tmp_path / "out.jsonl")
    sources = read_sources([tmp_path], rejects)
    rows = build(sources.items, phrasings, rejects).as_rows()
    assert [(each["input"], each["output"]) for each in rows] == [('"참 좋다', "긍정"), ("별로", "부정")]
    assert [entry["line"] for entry in rejects.rows] == [4, 5]
    assert list(sources.held_out.values()) == [1]


def test_titles_of_a_search_collection(tmp_path, phrasings):
    folder = tmp_path / "wikinews"
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": "", "text": TEXT * 2}])
    write_jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "보관함 소식"}])
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n", encoding="utf-8")
    rejects = Rejects(tmp_path / "out.jsonl")
    found = build(read_sources([tmp_path], rejects).items, phrasings, rejects).counts()
    assert found == {"title_generation": 1, "title_to_contents": 1, "text_completion": 1}


def test_a_faulty_line_of_a_search_collection_is_kept_and_the_others_are_read(tmp_path):
    documents = [{"_id": "d1", "title": "제목", "text": ""}, {"_id": "d2", "text": TEXT * 2}, {"_id": "d3"}]
    write_jsonl(tmp_path / "wikinews" / "corpus.jsonl", documents)
    write_jsonl(tmp_path / "wikinews" / "queries.jsonl", [{"_id": "q1", "text": "보관함 소식"}])
    judged = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\n"
    (tmp_path / "wikinews" / "qrels.tsv").write_text(judged, encoding="utf-8")
    rejects = Rejects(tmp_path / "out.jsonl")
    assert [item.content.name for item in read_sources([tmp_path], rejects).items] == ["wikinews:q1:d2"]
    assert [(entry["line"], entry["reason"]) for entry in rejects.rows] == [
        (3, "the key text must hold text, and so must title where it is there"),
        (None, "text: is empty"),
    ]
    assert rejects.rows[1]["row"]["corpus-id"] == "d1" and rejects.rows[1]["file"].endswith("wikinews")


def test_a_file_named_beside_a_corpus_is_read_and_a_search_collection_that_nobody_knows_is_said(tmp_path):
    write_jsonl(tmp_path / "hansol" / "corpus.jsonl", [{"_id": "d1", "text": TEXT}])
    rejects = Rejects(tmp_path / "out.jsonl")
    sources = read_sources([write_jsonl(tmp_path / "hansol" / "mine.jsonl", READY), tmp_path], rejects)
    assert len(sources.items) == len(READY)
    assert [name.rsplit("/", 1)[-1] for name in sources.unread] == ["hansol"]


def test_a_table_reached_twice_keeps_its_lines(tmp_path):
    path = tmp_path / "nsmc_train.tsv"
    path.write_text("id\tdocument\tlabel\n1\t\t1\n2\t별로\t0\n", encoding="utf-8")
    rejects = Rejects(tmp_path / "out.jsonl")
    assert [item.line for item in read_sources([tmp_path, path], rejects).items] == [3, 3]
    assert [entry["line"] for entry in rejects.rows] == [2, 2]


def test_sources_that_cannot_be_read_are_named(tmp_path):
    rejects = Rejects(tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="does not exist"):
        read_sources([tmp_path / "nothing"], rejects)
    (tmp_path / "notes.csv").write_text("a\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)no source has a usable row.*articles.jsonl"):
        read_sources([tmp_path], rejects)


def test_the_command_writes_rows_rejects_and_a_card_that_says_the_same(tmp_path, capsys):
    source = write_jsonl(tmp_path / "in" / "mine.jsonl", [
        *READY, row("free_response", "", "한솔역에서 만나자고 그가 말했다."), row("poetry", "시", "시"),
        row("summarization", "", "시"),
    ])  # fmt: skip
    told = [
        "--source",
        str(source),
        "--output",
        str(tmp_path / "train.jsonl"),
        "--dev_output",
        str(tmp_path / "dev.jsonl"),
    ]
    report = main([*told, "--card", str(tmp_path / "README.md"), "--dev_share", "0.3"])
    train, dev, refused = (read_jsonl(tmp_path / name) for name in
                           ("train.jsonl", "dev.jsonl", "train.jsonl.rejected.jsonl"))  # fmt: skip
    assert len(train) == len(report.train) and len(dev) == len(report.dev) > 0 and len(refused) == 1
    assert len(train) + len(dev) == len(READY) + 2
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{len(train)} rows to train on, {len(dev)} held out" in card and "the row has no text under input" in card
    assert "| poetry | 1 |" in card and "a name of its own: no rule" in card
    assert str(tmp_path) not in card and "nothing was checked" in card
    assert f"{len(train)} rows to train" in capsys.readouterr().out
    make_set([source], tmp_path / "again.jsonl", card=tmp_path / "again.md")
    again = (tmp_path / "again.md").read_text(encoding="utf-8")
    make_set([source], tmp_path / "again.jsonl", card=tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text(encoding="utf-8") == again
    with pytest.raises(InputError, match="overwrite"):
        main([*told[:4], "--dev_output", str(tmp_path / "train.jsonl")])


def test_rows_in_three_keys_are_read_and_written(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [
        {"input": "요약해 줘.\n\n비가 온다.", "output": "비", "Task_name": "Summarization"},
        {"instruction": "인사해 줘.", "input": None, "output": "안녕!", "task": None},
    ])  # fmt: skip
    rows = [built.row for built in make_set([source], tmp_path / "four.jsonl").train]
    assert rows == [
        {"instruction": "요약해 줘.\n비가 온다.", "input": "", "output": "비", "task": "Summarization"},
        {"instruction": "인사해 줘.", "input": "", "output": "안녕!", "task": "free_response"},
    ]
    told = ["--source", "four.jsonl", "--output", "three.jsonl", "--card", "card.md"]
    main([*(word if word.startswith("--") else str(tmp_path / word) for word in told), "--three_keys"])
    assert 'A row is `{"input", "output", "Task_name"}`' in (tmp_path / "card.md").read_text(encoding="utf-8")
    assert read_jsonl(tmp_path / "three.jsonl") == [
        {"input": one["instruction"], "output": one["output"], "Task_name": one["task"]} for one in rows
    ]


def test_what_the_command_is_told_reaches_the_set(tmp_path):
    rows = [row("paraphrasing", f"{number}번 비가 온다.", f"비가 {number}번 내린다.") for number in range(40)]
    review = max(zero_shot_texts(sample_data("zero_shot"))["nsmc"], key=len)
    half = row("free_response", "", "네.") | {"instruction": review[: len(review) // 2]}
    source = write_jsonl(tmp_path / "in.jsonl", [*(each | {"instruction": ""} for each in rows), half])

    def made(**told):
        make_set([source], tmp_path / "train.jsonl", dev_output=tmp_path / "dev.jsonl", **told)
        return [read_jsonl(tmp_path / name) for name in ("train.jsonl", "dev.jsonl")]

    one, other = made(dev_share=0.25), made(dev_share=0.25, seed=14)
    assert len(one[1]) == len(other[1]) == 10
    assert {each["input"] for each in one[1]} != {each["input"] for each in other[1]}
    wordings = [{each["input"]: each["instruction"] for side in sides for each in side} for sides in (one, other)]
    assert wordings[0].keys() == wordings[1].keys() and wordings[0] != wordings[1]
    assert all(set(each) == {"input", "output", "Task_name"} for side in made(three_keys=True) for each in side)
    leaks = [41 - sum(map(len, made(zero_shot=sample_data("zero_shot"), threshold=share))) for share in (0.7, 0.3)]
    assert leaks == [0, 1]


@pytest.mark.parametrize("bad", [{"output": "답"}, row("summarization", TEXT, "짧다")], ids=["unread", "unbuilt"])
def test_a_set_without_a_row_is_refused_with_the_reasons_kept(tmp_path, bad):
    source = write_jsonl(tmp_path / "in.jsonl", [bad])
    with pytest.raises(InputError, match=r"1 x the (row has no text|summary is shorter)"):
        make_set([source], tmp_path / "out.jsonl")
    assert len(read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")) == 1 and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"output": "in/a.jsonl"}, "output would overwrite a source"),
        ({"output": "in/../link/a.jsonl"}, "output would overwrite a source"),
        ({"card": "in/a.jsonl"}, "card would overwrite a source"),
        ({"dev_output": "out.jsonl"}, "dev_output would overwrite output"),
        ({"card": "out.jsonl.rejected.jsonl"}, "refused rows would overwrite card"),
        ({"source": "in", "dev_output": "in/dev.jsonl"}, "dev_output would lie among the sources"),
    ],
)
def test_no_file_is_written_over_a_source_or_another_one(tmp_path, named, words):
    source = write_jsonl(tmp_path / "in" / "a.jsonl", READY)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = source.read_bytes()
    told = {key: tmp_path / path for key, path in ({"source": "in/a.jsonl", "output": "out.jsonl"} | named).items()}
    with pytest.raises(InputError, match=words):
        make_set([told.pop("source")], told.pop("output"), **told)
    assert source.read_bytes() == before and not (tmp_path / "out.jsonl").exists()


def test_a_card_names_files_from_the_root_wherever_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_set([sample_data("tasks", "source", "tables.jsonl")], tmp_path / "t.jsonl", card=tmp_path / "card.md")
    assert "| sample_data/tasks/source/tables.jsonl |" in (tmp_path / "card.md").read_text(encoding="utf-8")

"""Four public Korean classification sets in their original files: NSMC, KorNLI, Question_pair, korean-hate-speech.

Each reader gives one table: the text columns of the set, ``label`` (the name of the class, not the number in the file)
and ``line`` (where the row starts in the file). Quirks of the originals that silently cost rows or turn labels round:

* NSMC and KorNLI are tab-separated without quoting: a reader that believes in quotation marks swallows rows.
* Question_pair begins with a byte order mark, its test file ends every line with an empty column that has no name, and
  ``is_duplicate`` is 0 where the questions are the **same**.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers.course.encodings import decode_text
from helpers.course.errors import InputError
from helpers.course.files import read_bytes, short_path
from helpers.course.rejects import Rejects
from helpers.course.separated import csv_rows


@dataclass(frozen=True)
class Benchmark:
    """One set: its columns, what its label values mean, and under which names its files are found.

    ``labels`` maps each value of ``label_column`` to a class; ``files`` are patterns, the preferred one first (test
    before dev before train); ``hub`` is (path, configuration, split) for ``datasets``.
    """

    name: str
    title: str
    source: str
    licence: str
    text_columns: tuple[str, ...]
    label_column: str
    labels: Mapping[str, str]
    files: tuple[str, ...]
    separator: str
    quoted: bool
    hub: tuple[str, str | None, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in a fixed order, each once."""
        return tuple(dict.fromkeys(self.labels.values()))


NSMC = Benchmark(
    name="nsmc",
    title="NSMC",
    source="https://github.com/e9t/nsmc",
    licence="CC0 1.0",
    text_columns=("document",),
    label_column="label",
    labels={"1": "positive", "0": "negative"},
    files=("ratings_test.txt", "ratings_test*.txt", "ratings*.txt"),
    separator="\t",
    quoted=False,
    hub=("e9t/nsmc", None, "test"),
)
KORNLI = Benchmark(
    name="kornli",
    title="KorNLI",
    source="https://github.com/kakaobrain/kor-nlu-datasets",
    licence="CC BY-SA 4.0",
    text_columns=("sentence1", "sentence2"),
    label_column="gold_label",
    labels={"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
    files=("xnli.test.ko.tsv", "xnli.dev.ko.tsv", "xnli*.tsv"),
    separator="\t",
    quoted=False,
    hub=("kakaobrain/kor_nli", "xnli", "test"),
)
QUESTION_PAIR = Benchmark(
    name="question_pair",
    title="KorQuestionPair",
    source="https://github.com/songys/Question_pair",
    licence="MIT",
    text_columns=("question1", "question2"),
    label_column="is_duplicate",
    labels={"0": "same", "1": "different"},
    files=("kor_pair_test.csv", "kor_Pair_test.csv", "kor_pair*.csv"),
    separator=",",
    quoted=True,
    hub=("kor_qpair", None, "test"),
)
HATE_SPEECH = Benchmark(
    name="hate_speech",
    title="KoreaHateSpeech",
    source="https://github.com/kocohub/korean-hate-speech",
    licence="CC BY-SA 4.0",
    text_columns=("comments",),
    label_column="bias",
    labels={"none": "no bias", "gender": "bias", "others": "bias"},
    files=("hate_speech/dev.tsv", "hate_speech/train.tsv", "hate_speech*.tsv", "labeled/dev.tsv", "dev.tsv"),
    separator="\t",
    quoted=False,
    hub=("inmoonlight/kor_hate", None, "test"),
)
BENCHMARKS = {each.name: each for each in (KORNLI, QUESTION_PAIR, HATE_SPEECH, NSMC)}
"""In the order of the seeds' table."""


def find_file(benchmark: Benchmark, folder: str | Path) -> Path:
    """The file of this set in ``folder`` or below it, the test side before dev before train.

    Raises :class:`InputError` where there is none, naming the patterns that were looked for.
    """
    folder = Path(folder)
    for pattern in benchmark.files:
        if found := sorted(path for path in folder.rglob(pattern) if path.is_file()):
            return found[0]
    raise InputError(
        f"no file of {benchmark.title} lies here",
        file=short_path(folder),
        allowed=list(benchmark.files),
        hint=f"download it from {benchmark.source}",
    )


def read_benchmark(name: str, path: str | Path, rejects: Rejects | None = None) -> pd.DataFrame:
    """One of the four sets from its original file, or found in a folder.

    Columns: the set's text columns, ``label`` (one of ``BENCHMARKS[name].classes``) and ``line``. A row without text, with
    a label that does not exist or with too few fields raises :class:`InputError`; with ``rejects`` given it is kept there.
    So does a file in which nothing is left.
    """
    benchmark = benchmark_named(name)
    path = find_file(benchmark, path) if Path(path).is_dir() else Path(path)
    text, _ = decode_text(read_bytes(path), short_path(path), "utf-8", ["utf-8"])
    rows = csv_rows(text, path, benchmark.separator, benchmark.quoted)
    header = next(rows, (1, []))[1]
    wanted = (*benchmark.text_columns, benchmark.label_column)
    if missing := [column for column in wanted if column not in header]:
        raise InputError(
            f"this is no file of {benchmark.title}: it lacks the column {', '.join(missing)}",
            file=short_path(path),
            place="line 1",
            given=benchmark.separator.join(header),
            allowed=list(wanted),
        )
    if repeated := [column for column in wanted if header.count(column) > 1]:
        raise InputError(
            f"the column {repeated[0]} stands here more than once, and nobody can tell which one is meant",
            file=short_path(path),
            place="line 1",
            given=benchmark.separator.join(header),
        )
    kept = []
    for line, fields in rows:
        row = dict(zip(header, fields, strict=False))
        what, given = _why_not(benchmark, row, len(fields) == len(header))
        if what is None:
            texts = {column: row[column].strip() for column in benchmark.text_columns}
            kept.append(texts | {"label": benchmark.labels[row[benchmark.label_column].strip()], "line": line})
        elif rejects is None:
            allowed = list(benchmark.labels) if "label" in what else None
            raise InputError(what, file=short_path(path), place=f"line {line}", given=given, allowed=allowed)
        else:
            rejects.add(fields, path, line, what)
    if not kept:
        given = "a header and nothing else" if rejects is None else rejects.summary()
        raise InputError(
            f"this file of {benchmark.title} holds no row to ask about", file=short_path(path), given=given
        )
    return pd.DataFrame(kept, columns=[*benchmark.text_columns, "label", "line"])


def stratified_sample(table: pd.DataFrame, rows: int | None, seed: int) -> pd.DataFrame:
    """At most ``rows`` rows drawn by ``seed`` with the classes in their own shares, in the order of the file.

    ``None`` takes all. The shares stay those of the set: a score on the sample estimates the score on the set. Raises
    :class:`InputError` where no such draw is possible: each class needs two rows, one to be drawn and one left over.
    """
    if rows is None or rows >= len(table):
        return table.reset_index(drop=True)
    counts = table["label"].value_counts()
    if counts.min() < 2 or not len(counts) <= rows <= len(table) - len(counts):
        raise InputError(
            "so many rows cannot be drawn with the classes in their shares",
            place="rows",
            given=f"{rows} of {len(table)}; rows by class: {counts.to_dict()}",
            allowed=f"{len(counts)} to {len(table) - len(counts)} with two rows or more of each class; or null: all",
        )
    from sklearn.model_selection import train_test_split

    kept, _ = train_test_split(table.index, train_size=rows, random_state=seed, stratify=table["label"])
    return table.loc[sorted(kept)].reset_index(drop=True)


def benchmark_named(name: str) -> Benchmark:
    """The set of that name. Raises :class:`InputError` that lists the names."""
    if name not in BENCHMARKS:
        raise InputError("there is no such set", place="name", given=name, allowed=list(BENCHMARKS))
    return BENCHMARKS[name]


def _why_not(benchmark: Benchmark, row: Mapping[str, str], whole: bool) -> tuple[str | None, str | None]:
    """Why a row cannot be used (None: it can), and the value to blame."""
    if not whole:
        return "this row has another number of fields than the header", benchmark.separator.join(row.values())
    for column in benchmark.text_columns:
        if not row[column].strip():
            return f"the text in {column} is empty", None
    if row[benchmark.label_column].strip() not in benchmark.labels:
        return "this label does not exist", row[benchmark.label_column]
    return None, None

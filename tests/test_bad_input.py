"""Malformed input through public functions and command lines: the whole message reads well to a newcomer.

Each case gives the message as it is shown, file names shortened to their last part. What a parser of a library adds in a
hint ("the parser says ...") is cut, so that an update of it changes nothing here.
"""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY, sample_data
from helpers.course.run import main as run_main
from helpers.data.pairs import read_pairs, read_sts
from helpers.data.retrieval import read_beir, read_e5
from helpers.data.sentences import read_sentences
from helpers.data.settings import EmbeddingDataSettings
from helpers.data.triplets import main as triplets_main
from helpers.embedding.encoder import Encoder
from helpers.embedding.evaluation import sts_spearman
from helpers.embedding.simcse_settings import SimCSESettings
from helpers.instruct.models import load_language_model

PRODUCTS = "description,category,name,domain\n짧은 글,예금,가나 통장,금융\n다른 글,예금,다라 통장,금융\n"


def text(name, content, encoding="utf-8"):
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return folder / name

    return write


def reading(reader, name, content):
    return lambda folder: reader(text(name, content)(folder))


def triplets(content=PRODUCTS, *more, method="basic", columns=("description", "category", "name"), output="out.csv"):
    def command(folder: Path):
        desc, category, positive = columns
        told = ["--data_path", text("products.csv", content)(folder), "--desc_col", desc, "--category_col", category]
        told += ["--positive_cols", positive]
        told += ["--output_supervised", folder / output] if output else []
        triplets_main([method, *map(str, told), *more])

    return command


def simcse(**given):
    return lambda folder: SimCSESettings.load(**given)


def simcse_file(content, name="mine.yaml"):
    return lambda folder: SimCSESettings.load(text(name, content)(folder))


def beir(corpus, queries, qrels):
    def read(folder: Path):
        text("corpus.jsonl", corpus)(folder)
        text("queries.jsonl", queries)(folder)
        (folder / "qrels").mkdir()
        text("qrels/test.tsv", qrels)(folder)
        read_beir(folder)

    return read


def cut_model(folder: Path):
    for path in sample_data("models", "ko-mini-encoder").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    Encoder.load(folder)


def folder_for_a_file(folder: Path):
    (folder / "pairs.csv").mkdir()
    read_pairs(folder / "pairs.csv")


def sample_encoder() -> Encoder:
    return Encoder.load("sample_data/models/ko-mini-encoder")


class Program:
    def __reduce__(self):
        return os.system, ("echo ran",)


DOCUMENT, QUERY = '{"_id": "d1", "text": "본문"}\n', '{"_id": "q1", "text": "질문"}\n'
QRELS = "query-id\tcorpus-id\tscore\n"

CASES = {
    "a table that is not there": reading(lambda path: read_sentences(path.with_name("gone.txt")), "a.txt", "가"),
    "a folder instead of a file": folder_for_a_file,
    "UTF-16": reading(read_sentences, "a.txt", "한글".encode("utf-16")),
    "a broken byte": reading(read_sentences, "a.txt", "첫째 문장입니다\n둘째".encode() + b"\xff\n"),
    "an empty normal set": reading(read_sentences, "a.txt", ""),
    "an empty sentence": reading(read_sentences, "a.csv", 'text\n가\n" "\n'),
    "two columns of text": reading(read_sentences, "a.csv", "질문,답\n가,나\n"),
    "a pickle with a program": reading(read_sentences, "a.pkl", pickle.dumps(["가", Program()])),
    "a pickle with numbers": reading(read_pairs, "a.pkl", pickle.dumps([("가", 3)])),
    "pairs of unlike length": reading(read_pairs, "a.pkl", pickle.dumps((["가", "나"], ["다"]))),
    "pairs with other columns": reading(read_pairs, "a.csv", "a,b\n가,나\n"),
    "a pair without its half": reading(read_pairs, "a.csv", "sentence_a,sentence_b\n가,나\n다,\n"),
    "a field too many": reading(read_pairs, "a.csv", "sentence_a,sentence_b\n가,나\n다,라,마\n"),
    "a quotation mark left open": reading(read_pairs, "a.csv", 'sentence_a,sentence_b\n가,나\n다,"라\n'),
    "broken JSON": reading(read_pairs, "a.jsonl", '{"query": "가", "document": "나"}\n{"query": "다", \n'),
    "a score out of range": reading(read_sts, "a.tsv", "score\tsentence1\tsentence2\n7\t가\t나\n"),
    "an STS file without scores": reading(read_sts, "a.tsv", "sentence1\tsentence2\n가\t나\n"),
    "an STS side that is not there": reading(
        lambda path: read_sts(path, "valid"), "a.tsv", "split\tscore\tsentence1\tsentence2\ndev\t1\t가\t나\n"
    ),
    "an e5 row whose negative is its document": reading(
        read_e5, "a.jsonl", '{"query": "가", "document": "나", "hard_negative": "나"}\n'
    ),
    "a judgement of an unknown document": beir(DOCUMENT, QUERY, QRELS + "q1\td9\t1\n"),
    "a document twice": beir(DOCUMENT * 2, QUERY, QRELS + "q1\td1\t1\n"),
    "a column that the table lacks": triplets(columns=("description", "group", "name")),
    "an output that is the input": triplets(output="products.csv"),
    "an output of another kind": triplets(PRODUCTS, output="out.xlsx"),
    "domainwise without a domain": triplets(method="domainwise", output=None),
    "no output": triplets(output=None),
    "an unknown encoding": triplets(PRODUCTS, "--encoding", "johab"),
    "a misspelt knob": simcse_file("los_temperature: 0.05\n"),
    "a temperature below zero": simcse(loss_temperature=-0.1),
    "a data_type that does not exist": simcse(data_type=2),
    "a logger that does not exist": simcse(logger="mlflow"),
    "yes for a number": simcse_file("model: a\nepochs: yes\n"),
    "YAML that is none": simcse_file("epochs: 1\n lr: 2\n"),
    "a profile that does not exist": simcse(profile="v100"),
    "a settings file that is not there": simcse(config="config/simsce.yaml"),
    "no negatives at all": lambda folder: EmbeddingDataSettings.load(num_negatives=0),
    "a model folder that is not there": lambda folder: Encoder.load("sample_data/models/ko-mini-encodr"),
    "weights cut short": cut_model,
    "more tokens than the model reads": lambda folder: Encoder.load(
        "sample_data/models/ko-mini-encoder", max_length=9999
    ),
    "a prompt that the model lacks": lambda folder: sample_encoder().encode(["가"], prompt="query"),
    "a number among the texts": lambda folder: sample_encoder().encode(["가", 3]),
    "an adapter that is none": lambda folder: sample_encoder().load_adapter(folder, trainable=True),
    "scores that are all the same": lambda folder: sts_spearman(None, ["가", "나"], ["다", "라"], [1.0, 1.0]),
    "a language model that is not there": lambda folder: load_language_model("sample_data/models/gone"),
}


def shown(error, folder):
    """The message with everything taken out that differs between machines, library versions and days."""
    words = str(error).replace(f"{folder}/", "").replace(str(folder), "here")
    words = re.sub(r"(parser|transformers) says: .*", r"\1 says: …", words)
    words = re.sub(r"sha256 [0-9a-f]{16}…", "sha256 …", words)
    return re.sub(
        r"(allowed: )[^\n]{100,}", r"\1…", words
    )  # all knobs, all files of a folder: other ones with every lesson


def read_aloud():
    """{case: the message that is expected} as ``bad_input.txt`` tells them, one after the other, to be read in one go."""
    told = Path(__file__).with_name("bad_input.txt").read_text(encoding="utf-8")
    return dict(part.split("\n", 1) for part in re.split(r"(?m)^## ", told.rstrip("\n"))[1:])


@pytest.mark.parametrize("case", CASES)
def test_the_whole_message_reads_well(case, tmp_path):
    with pytest.raises(InputError) as caught:
        CASES[case](tmp_path)
    assert shown(caught.value, tmp_path) == read_aloud()[case].strip("\n")


def test_every_message_told_is_tested():
    assert sorted(read_aloud()) == sorted(CASES) and len(CASES) >= 24


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lesson", "77"], "error: there is no such lesson\n  given:   77\n  allowed: 00, 01, 02"),
        (["lesson", "02", "-p", "temprature", "1"], "parameter temprature\n  given:   1\n"),
        (["lesson", "02", "-p", "temprature", "1"], "did you mean temperature or loss_temperature?"),
        (
            ["lesson", "02", "-p", "lr", "1", "-p", "lr", "2"],
            "error: one parameter is given twice\n  where:   parameter lr",
        ),
    ],
)
def test_the_runner_says_it_on_one_page_and_exits_with_2(arguments, words, capsys):
    assert run_main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_triplets_command_says_it_without_a_traceback(tmp_path):
    told = ["--data_path", tmp_path / "gone.csv", "--desc_col", "a", "--category_col", "b", "--positive_cols", "c"]
    told += ["--output_supervised", tmp_path / "out.csv"]
    command = [sys.executable, "-m", "helpers.data.triplets", "basic", *map(str, told)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr == f"this file does not exist\n  where:   {tmp_path}/gone.csv\n"

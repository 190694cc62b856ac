"""Statute articles of a corpus as training pairs."""

import gzip
import sys

import pytest

from helpers.course.paths import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from statutes import statute_of, statute_pairs

LINES = """
우산법 제1조(목적) 이 법은 우산을 함께 쓰는 데에 필요한 사항을 정함을 목적으로 한다.
우산법 제3조의2(우산의 반환) 빌린 우산은 비가 그친 날부터 사흘 안에 돌려주어야 한다.
우산법 제9조(목적) 같은 제목이 다시 나오면 먼저 나온 조문을 남기고 뒤의 것은 버린다.
장화법 제2조(정의) 이 법에서 "장화"란 목이 발목보다 높고 물이 새지 않는 신을 말한다.
비가 그치면 우산을 접는다. 제1조(목적)이라고 쓰지 않은 줄은 조문이 아니다.
우산법 제4조(짧음) 너무 짧다.
"""


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    return path


def test_name_and_heading_find_the_article(corpus):
    pairs = statute_pairs(corpus, without=())
    assert pairs.first == ["우산법 목적", "우산법 우산의 반환", "장화법 정의"]
    assert pairs.second[1] == "우산법 제3조의2 빌린 우산은 비가 그친 날부터 사흘 안에 돌려주어야 한다."
    assert "우산을 함께" in pairs.second[0]
    assert [statute_of(document) for document in pairs.second] == ["우산법", "우산법", "장화법"]


def test_statutes_of_the_benchmark_are_left_out(corpus):
    assert statute_pairs(corpus, without={"우산법"}).first == ["장화법 정의"]

"""Training as a command: what it writes into metrics.json, and which knobs reach the search for hard negatives."""

import json

import pytest

from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.infonce import command as contrastive_command
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.mining import Mined

DOCUMENTS = ["구청에 간다.", "버스는 자정까지 다닌다.", "월요일에 쉰다.", "저녁에 내놓는다.", "전화로 예약한다."]
OTHERS = [[other for other in DOCUMENTS if other != own] for own in DOCUMENTS]
ROWS = ContrastiveRows.checked(["여권", "막차", "도서관", "쓰레기", "예방접종"], DOCUMENTS, OTHERS)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(InfoNCESettings, "training_rows", lambda self: ROWS)
    return InfoNCESettings.load(output_dir=tmp_path, batch_size=2, hard_negatives=4, max_length=16, max_steps=2)


def test_metrics_tell_what_was_masked_and_left_over(settings):
    told = contrastive_command.run(settings)
    assert json.loads((settings.output_dir / "metrics.json").read_text()) == told
    # Two rows with four hard negatives each: a row's own document stands among those of the other.
    assert told["masked_share"] == pytest.approx(1 / 9)
    assert told["left_over"] == 1 and told["steps"] == len(told["losses"]) == 2


def test_every_mining_knob_reaches_the_search(settings, monkeypatch):
    def searched(encoder, rows, corpus, **given):
        told.update(given)
        return rows, Mined([], 0.0, 0)

    told = {}
    monkeypatch.setattr(contrastive_command, "mine_rows", searched)
    own = settings.changed(negatives_from="mined", mine_lowest=0.1, mine_highest=0.9, mine_search="matmul", max_steps=1)
    contrastive_command.run(own)
    assert told == {"per_query": 4} | own.mining() and told["search"] == "matmul"

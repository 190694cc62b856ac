"""The adapter that other lessons start from."""

import pytest

from helpers.course.errors import InputError
from helpers.course.paths import repository_path
from helpers.instruct import tuning
from helpers.instruct.adapters import CARD_FILE, belongs_to, need_adapter_for
from helpers.instruct.prompts import Prompt
from helpers.instruct.tuning import BASE, tuned_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from helpers.instruct.smallest import train_smallest

    folder = tmp_path_factory.mktemp("shared") / "adapter"
    train_smallest(folder, steps=2)
    return folder


def test_an_adapter_holds_all_that_the_next_lesson_needs(adapter):
    from safetensors.torch import load_file

    weights = load_file(adapter / "adapter_model.safetensors")
    moved = [name for name, weight in weights.items() if "lora_B" in name and weight.abs().max() > 0]
    assert len(moved) == 8 * 7
    assert Prompt.load(adapter).template == "seed"
    assert belongs_to(adapter, BASE)


def test_an_adapter_is_found_again_and_an_old_one_is_not_taken(adapter, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "LESSON_ADAPTER", str(adapter))
    assert tuned_adapter("outputs/none") == adapter
    assert str(adapter) in capsys.readouterr().out
    card = (adapter / CARD_FILE).read_text(encoding="utf-8")
    (adapter / CARD_FILE).write_text('{"base": "other", "base_fingerprint": "0"}', encoding="utf-8")
    assert not belongs_to(adapter, BASE)
    with pytest.raises(InputError, match="another base"):
        need_adapter_for(adapter, BASE)
    (adapter / CARD_FILE).write_text(card, encoding="utf-8")
    need_adapter_for(adapter, BASE)
    with pytest.raises(InputError, match="no whole adapter"):
        need_adapter_for(repository_path(BASE), BASE)

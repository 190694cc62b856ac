"""training.json beside saved weights: what it says, whose weights it belongs to, and how it gets into the leaderboard."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.course.checksums import verify_checksums, write_checksums
from helpers.course.errors import InputError
from helpers.embedding.scoring.leaderboard_rows import Row, measured_row, read_rows, save_row
from helpers.embedding.training_record import TRAINING_FILE, data_fingerprint, read_training, record_training, start_of
from helpers.embedding.triplet_settings import TripletSettings


def weights(folder, value):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.full(2, value, np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def trained(tmp_path):
    """A saved model with checksums, its settings and its data."""
    base, model, data = weights(tmp_path / "base", 0), weights(tmp_path / "model", 1), tmp_path / "rows.jsonl"
    data.write_text('{"query": "질문"}\n', encoding="utf-8")
    write_checksums(model)
    return model, TripletSettings.load(model=str(base), output_dir=tmp_path, seed=7, lr=0.5), data


def test_a_record_says_how_the_model_was_trained(trained):
    model, settings, data = trained
    record_training(model, settings, "lesson 04, ranking loss", [data])
    record = read_training(model)
    assert (record["recipe"], record["seed"], record["processes"]) == ("lesson 04, ranking loss", 7, 1)
    assert record["settings"]["lr"] == 0.5 and record["settings"]["savings_dir"] == "sample_data/savings"
    assert record["settings"]["model"] == settings.model
    assert not {"output_dir", "config", "seed"} & set(record["settings"])
    assert record["start"] == {
        "model": settings.model,
        "weights": start_of(settings.model)["weights"],
        "training": None,
    }
    assert record["data"] == {str(data): data_fingerprint(data)} and record["versions"]["torch"]
    assert record["hardware"] and record["date"].endswith("+00:00")


def test_data_are_known_by_their_content(tmp_path):
    (tmp_path / "set/qrels").mkdir(parents=True)
    (tmp_path / "set/corpus.jsonl").write_text("{}", encoding="utf-8")
    (tmp_path / "set/README.md").write_text("a card", encoding="utf-8")
    first = data_fingerprint(tmp_path / "set")
    (tmp_path / "set/README.md").write_text("a card, corrected", encoding="utf-8")
    assert data_fingerprint(tmp_path / "set") == first
    (tmp_path / "set/qrels/test.tsv").write_text("q\td\t1", encoding="utf-8")
    second = data_fingerprint(tmp_path / "set")
    (tmp_path / "set/qrels/test.tsv").rename(tmp_path / "set/qrels/train.tsv")
    assert len({first, second, data_fingerprint(tmp_path / "set")}) == 3
    for missing in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(InputError, match=rf"(?s)no data.*{missing.name}"):
            data_fingerprint(missing)


def test_the_list_of_checksums_still_verifies_and_still_finds_damage(trained):
    model, settings, data = trained
    for recipe in ("once", "again"):
        record_training(model, settings, recipe, [data])
        verify_checksums(model)
    whole = (model / TRAINING_FILE).read_text(encoding="utf-8")
    (model / TRAINING_FILE).write_text(whole.replace("again", "never"), encoding="utf-8")
    with pytest.raises(InputError, match=rf"(?s)does not match.*{TRAINING_FILE}"):
        verify_checksums(model)
    weights(model, 2)  # damaged: a record must not make it good
    record_training(model, settings, "again", [data])
    with pytest.raises(InputError, match=r"(?s)does not match.*model\.safetensors"):
        verify_checksums(model)


def test_a_model_that_goes_on_from_another_carries_its_record(trained, tmp_path):
    first, settings, data = trained
    record_training(first, settings, "first", [data])
    record_training(weights(tmp_path / "second", 3), settings.changed(model=str(first)), "second", [data])
    start = read_training(tmp_path / "second")["start"]
    assert start["training"]["recipe"] == "first" and start["training"]["start"]["training"] is None
    before = start_of(first)
    weights(first, 4)  # the adapter that a run went on from is written over when the run is saved
    record_training(first, settings, "third", [data], start=before)
    assert read_training(first)["start"]["training"]["recipe"] == "first"


def test_a_record_of_other_weights_is_refused(trained):
    model, settings, data = trained
    record_training(model, settings, "first", [data])
    weights(model, 5)
    with pytest.raises(InputError, match=rf"(?s)other weights.*{TRAINING_FILE}, key weights"):
        read_training(model)


def test_no_weights_and_no_record(trained, tmp_path):
    _, settings, data = trained
    assert read_training(tmp_path / "base") is None and read_training("intfloat/multilingual-e5-large") is None
    with pytest.raises(InputError, match=r"(?s)no weights.*nowhere"):
        record_training(tmp_path / "nowhere", settings, "nothing", [data])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "13"}, r"seed must be a whole number.*key seed"),
        ({"seed": True}, r"seed must be a whole number.*key seed"),
        ({"recipe": None}, r"recipe must be text.*key recipe"),
        ({"settings": []}, r"settings must be an object.*key settings"),
        ({"colour": "red"}, r"unknown key.*key colour"),
        ({"start": {"model": "m", "weights": "w"}}, r"lacks a key.*key start\.training"),
        ({"start": {"model": "m", "weights": "w", "training": {}}}, r"lacks a key.*key start\.training\.recipe"),
    ],
)
def test_a_bad_record_is_named_in_its_file_and_in_a_row(trained, tmp_path, changes, said):
    model, settings, data = trained
    path = record_training(model, settings, "first", [data])
    good = read_training(model)
    path.write_text(json.dumps(good | changes), encoding="utf-8")
    with pytest.raises(InputError, match=rf"(?s){said}") as error:
        read_training(model)
    assert error.value.file.endswith(f"model/{TRAINING_FILE}")
    row = {"model": "m", "dataset": "d", "kind": "measured", "metrics": {"ndcg@10": 0.5}}
    lines = [row, row | {"training": good | changes}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(InputError, match=rf"(?s){said.replace('.*key ', '.*line 2, key training.')}"):
        read_rows(tmp_path / "rows.jsonl")


def test_what_is_no_json_is_named_by_line_and_column(trained):
    model, settings, data = trained
    path = record_training(model, settings, "first", [data])
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(InputError, match=rf"(?s)JSON.*{TRAINING_FILE}, line \d+, column \d+"):
        read_training(model)


def test_a_row_carries_the_record_and_rows_without_one_still_read(trained, tmp_path):
    model, settings, data = trained
    record_training(model, settings, "first", [data])
    facts = {"settings": {"weights": "w"}, "seed": 13}
    row = measured_row("m", "d", {"ndcg@10": 0.5}, training=read_training(model), **facts)
    old = {
        key: value for key, value in vars(Row("old", "d", "measured", {"ndcg@10": 0.4})).items() if key != "training"
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(old) + "\n", encoding="utf-8")
    save_row(tmp_path, row)
    first, second = read_rows(tmp_path / "rows.jsonl")
    assert first.training is None and second.training["recipe"] == "first" and second == row
    assert measured_row("m", "d", {"ndcg@10": 0.5}, **facts).key == row.key  # the queries of old rows keep their names

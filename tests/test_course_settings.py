"""Settings: which layer wins, where a value came from, names and aliases, paths."""

import argparse
import json
from pathlib import Path

import pytest
from pydantic import AliasChoices, Field

from helpers.course.command_line import add_settings, settings_of
from helpers.course.config_files import read_config
from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY
from helpers.course.settings import LessonSettings

FILE = """
model: some/name
lr: 1e-6
epochs: 10
profiles:
  cpu: {epochs: 2}
  a100: {epochs: 20, lr: 1.0e-5}
smoke: {epochs: 1}
"""


class Knobs(LessonSettings):
    lr: float = Field(1e-3, gt=0)
    epochs: int = Field(3, ge=1)
    max_length: int = Field(64, validation_alias=AliasChoices("max_seq_length", "cutoff"))
    layers: list[int] = Field(default_factory=list)
    most: int | None = None
    ranks: tuple[int, ...] = (1, 2)


def told(*arguments):
    parser = argparse.ArgumentParser()
    add_settings(parser, Knobs)
    parser.add_argument("--smoke", action="store_true")
    return parser.parse_args(arguments)


def test_a_parameter_stands_above_an_option_of_the_same_name(file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("model: x\nlr: 0.5\n", encoding="utf-8")
    assert settings_of(Knobs, told("--config", str(file), "--profile", "a100")).epochs == 20
    assert settings_of(Knobs, told("--config_path", str(file), "--profile", "a100", "-p", "profile", "cpu")).epochs == 2
    assert settings_of(Knobs, told("--config", str(file), "-p", "config", str(other))).lr == 0.5
    assert settings_of(Knobs, told("--config", str(file), "--smoke")).epochs == 1
    assert settings_of(Knobs, told("--config", str(file), "-p", "smoke", "true")).epochs == 1
    assert settings_of(Knobs, told("--config", str(file), "--smoke", "-p", "smoke", "false"), epochs=7).epochs == 7
    with pytest.raises(InputError, match="given twice"):
        settings_of(Knobs, told("--config", str(file), "-p", "lr", "0.1", "-p", "lr", "0.2"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "knobs.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("given", "epochs", "lr", "origin"),
    [
        ({}, 2, 1e-6, "profile cpu"),
        ({"profile": "t4"}, 10, 1e-6, "knobs.yaml"),
        ({"profile": "a100"}, 20, 1e-5, "profile a100"),
        ({"profile": "a100", "smoke": True}, 1, 1e-5, "smoke"),
        ({"profile": "a100", "smoke": True, "epochs": 7}, 7, 1e-5, "parameter"),
        ({"epochs": None}, 2, 1e-6, "profile cpu"),
        ({"epochs": "5"}, 5, 1e-6, "parameter"),
    ],
)
def test_later_layers_win_and_the_table_says_which(file, given, epochs, lr, origin):
    knobs = Knobs.load(file, **given)
    assert (knobs.epochs, knobs.lr) == (epochs, lr)
    table = knobs.table().set_index("key")
    assert table.loc["epochs", "from"].endswith(origin)
    assert table.loc["epochs", "value"] == epochs
    assert table.loc["max_length", "from"] == "default"


def test_a_profile_named_in_the_file_is_taken_unless_a_parameter_says_otherwise(tmp_path):
    (tmp_path / "a.yaml").write_text("model: m\nprofile: a100\nprofiles: {a100: {epochs: 9}, cpu: {epochs: 1}}\n")
    assert Knobs.load(tmp_path / "a.yaml").epochs == 9
    assert Knobs.load(tmp_path / "a.yaml", profile="cpu").epochs == 1


def test_aliases_and_field_names_mean_the_same_in_json_and_in_parameters(tmp_path):
    for name in ("max_seq_length", "cutoff", "max_length"):
        (tmp_path / "a.json").write_text(json.dumps({"model": "m", name: 2048}))
        assert Knobs.load(tmp_path / "a.json").max_length == 2048
        assert Knobs.load(tmp_path / "a.json", **{name: 16}).max_length == 16
    (tmp_path / "a.json").write_text(json.dumps({"model": "m", "cutoff": 1, "max_length": 2}))
    with pytest.raises(InputError, match="one setting stands under two names"):
        Knobs.load(tmp_path / "a.json")


def test_without_a_file_all_that_has_no_default_must_be_given():
    with pytest.raises(InputError, match=r"a setting is missing\n.*key model"):
        Knobs.load()
    assert Knobs.load(model="m").epochs == 3


def test_paths_start_at_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = Knobs.load(model="pyproject.toml", data_dir="sample_data/sts", output_dir=tmp_path)
    assert knobs.data_dir == REPOSITORY / "sample_data" / "sts"
    assert knobs.output_dir == tmp_path
    assert knobs.model == str(REPOSITORY / "pyproject.toml")
    assert Knobs.load(model="intfloat/multilingual-e5-large").model == "intfloat/multilingual-e5-large"
    shown = knobs.table().set_index("key")["value"]
    assert (shown["data_dir"], shown["model"]) == ("sample_data/sts", "pyproject.toml")


def test_a_changed_copy_is_checked_like_all_others(file):
    knobs = Knobs.load(file)
    other = knobs.changed(epochs=4, cutoff=8)
    assert (other.epochs, other.max_length, other.lr, knobs.epochs) == (4, 8, knobs.lr, 2)
    origins = other.table().set_index("key")["from"]
    assert (origins["epochs"], origins["lr"]) == ("changed", knobs.table().set_index("key")["from"]["lr"])
    with pytest.raises(InputError, match="parameter epochs"):
        knobs.changed(epochs=0)
    with pytest.raises(InputError, match="did you mean epochs"):
        knobs.changed(epoch=1)


def test_a_wrong_item_of_a_list_is_named_and_so_are_other_wrong_settings():
    with pytest.raises(InputError) as caught:
        Knobs.load(model="m", layers=[1, "two"], epochs=0)
    assert "layers" in str(caught.value) and "epochs" in str(caught.value)
    with pytest.raises(InputError, match=r"parameter layers\[1\]\n.*given:   two"):
        Knobs.load(model="m", layers=[1, "two"])


@pytest.mark.parametrize("given", [{"most": True}, {"ranks": [8, False]}, {"layers": [True]}, {"lr": True}])
def test_true_is_no_number(given):
    with pytest.raises(InputError, match="a number is needed here, not true or false"):
        Knobs.load(model="m", **given)
    assert Knobs.load(model="m", most=3, ranks=[8], layers=[1], lr=1).ranks == (8,)


@pytest.mark.parametrize("key", ["profile", "config", "smoke"])
def test_a_section_cannot_say_which_sections_are_read(tmp_path, key):
    (tmp_path / "a.yaml").write_text(f"model: m\nprofiles:\n  cpu:\n    {key}: true\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"cannot stand in a section\n.*profiles.cpu.{key}"):
        Knobs.load(tmp_path / "a.yaml")


@pytest.mark.parametrize("given", [{"seed": -1}, {"seed": 2**32}, {"lr": float("nan")}, {"lr": float("inf")}])
def test_a_number_beyond_its_bounds_is_refused(given):
    with pytest.raises(InputError, match=f"parameter {next(iter(given))}"):
        Knobs.load(model="m", **given)
    assert Knobs.load(model="m", seed=2**32 - 1).seed == 2**32 - 1


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Knobs.load(model="m").epochs = 5


def test_an_empty_file_is_a_file_of_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert Knobs.load(tmp_path / "a.yaml", model="m").config == Path(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\n[a, b]: 1", "a key must be a word\n.*line 2, column 1"),
        ("a: 1\n? {a: 1}\n: 2", "a key must be a word\n.*line 2, column 3"),
        ("a: 1\nb: 2026-13-45", "no timestamp: month must be in 1..12\n.*line 2, column 4"),
        ("b: !!bool perhaps", "no bool.*\n.*line 1, column 4"),
        ("b: " + "[" * 3000, "nested too deeply"),
    ],
)
def test_what_python_would_stumble_over_in_a_file_is_named(tmp_path, text, told):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told) as error:
        read_config(tmp_path / "a.yaml")
    assert "a.yaml" in str(error.value)


def test_json_nested_too_deeply_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ' + "[" * 100_000)
    with pytest.raises(InputError, match=r"nested too deeply\n.*a\.json"):
        read_config(tmp_path / "a.json")


def test_settings_know_the_file_that_they_came_from(file, monkeypatch):
    monkeypatch.setattr(Knobs, "default_config", str(file))
    knobs = Knobs.load()
    assert knobs.config == file
    assert list(knobs.table().set_index("key").loc[["config", "profile"], "from"]) == ["default", "default"]


def test_a_section_without_keys_changes_nothing(tmp_path):
    (tmp_path / "a.yaml").write_text("model: none\nseed: 1\nprofiles:\n  t4:\nsmoke:\n")
    settings = LessonSettings.load(tmp_path / "a.yaml", profile="t4", smoke=True)
    assert settings.seed == 1 and settings.output_dir == REPOSITORY / "outputs"  # a default path is made absolute, too


@pytest.mark.parametrize(("given", "smoke"), [("false", False), ("no", False), ("true", True), (0, False), (1, True)])
def test_smoke_as_text_is_what_it_says(file, given, smoke):
    """papermill hands on `-p smoke false` as text, which Python itself takes for true."""
    knobs = Knobs.load(file, smoke=given)
    assert (knobs.smoke, knobs.epochs) == (smoke, 1 if smoke else 2)


def test_smoke_that_is_neither_true_nor_false_is_refused(file):
    with pytest.raises(InputError, match=r"(?s)parameter smoke.*given:   small.*true or false"):
        Knobs.load(file, smoke="small")


@pytest.mark.parametrize("folder", ["null", "5", "[a]"])
def test_an_output_folder_that_is_no_path_is_named_under_smoke_too(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("COURSE_SMOKE", "1")
    (tmp_path / "a.yaml").write_text(f"model: none\noutput_dir: {folder}\n")
    with pytest.raises(InputError, match=r"(?s)a\.yaml, key output_dir.*a path"):
        LessonSettings.load(tmp_path / "a.yaml")


def test_the_environment_can_ask_for_smoke_size_and_spares_real_outputs(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("model: none\noutput_dir: outputs/02_x\nseed: 1\nsmoke:\n  seed: 2\n")
    assert LessonSettings.load(tmp_path / "a.yaml", smoke=False).seed == 1
    monkeypatch.setenv("COURSE_SMOKE", "1")
    settings = LessonSettings.load(tmp_path / "a.yaml", smoke=False)
    assert (
        settings.smoke is True and settings.seed == 2 and settings.output_dir.parts[-3:] == ("outputs", "smoke", "02_x")
    )
    assert LessonSettings.load(tmp_path / "a.yaml", output_dir=tmp_path).output_dir == tmp_path

"""Settings of instruction tuning: KOSITP's JSON files load as they are, and a wrong key is named."""

import json
import math

import pytest
from trl import pack_dataset

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY, repository_path
from helpers.course.settings import PROFILES
from helpers.instruct.exporting.settings import ExportSettings
from helpers.instruct.models import load_tokenizer
from helpers.instruct.product_rows import product_rows
from helpers.instruct.prompts import Prompt
from helpers.instruct.rows import split_by_text, to_examples
from helpers.instruct.sft.settings import SEVEN_PROJECTIONS, InstructionSettings
from helpers.instruct.sft.trainer import as_dataset
from helpers.instruct.tuning import BASE
from helpers.instruct.zero_shot import ZeroShotSettings

SEEDS_FILE = {
    "train_path": "data/train.jsonl",
    "val_path": "data/val.jsonl",
    "max_seq_length": 2048,
    "pretrained_model_name": "upstage/SOLAR-10.7B-v1.0",
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_target_modules": list(SEVEN_PROJECTIONS),
    "lora_dropout": 0,
    "use_gradient_checkpointing": "True",
    "random_state": 3407,
    "use_rslora": False,
    "num_train_epochs": 3,
    "train_batch_size": 4,
    "eval_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "weight_decay": 0.01,
    "evaluation_strategy": "steps",
    "save_steps": 1000,
    "eval_steps": 1000,
    "learning_rate": 2e-4,
    "logging_steps": 1,
    "output_dir": "outputs/solar_lora",
    "optim": "adamw_8bit",
    "load_best_model_at_end": True,
    "save_total_limit": 3,
    "packing": False,
    "model_use_cache": False,
}


def load(tmp_path, **changes):
    path = tmp_path / "SOLAR_train_config.json"
    path.write_text(json.dumps(SEEDS_FILE | changes), encoding="utf-8")
    return InstructionSettings.load(path)


def test_a_settings_file_of_the_seeds_loads_as_it_is(tmp_path):
    settings = load(tmp_path)
    assert settings.model == "upstage/SOLAR-10.7B-v1.0" and settings.seed == 3407
    assert settings.use_gradient_checkpointing is True and settings.lora_target_modules == SEVEN_PROJECTIONS
    for key, value in SEEDS_FILE.items():
        name = {"pretrained_model_name": "model", "random_state": "seed"}.get(key, key)
        found = getattr(settings, name)
        if key in ("train_path", "val_path", "output_dir"):
            assert found == REPOSITORY / value
        elif key not in ("lora_target_modules", "use_gradient_checkpointing"):
            assert found == value


def test_every_key_of_the_seeds_is_a_parameter_of_the_lesson():
    notebook = json.loads((REPOSITORY / "notebooks/07_instruction_lora_unsloth.ipynb").read_text(encoding="utf-8"))
    first, then = [
        "".join(cell["source"])
        for number, cell in enumerate(notebook["cells"])
        if "parameters" in cell["metadata"].get("tags", [])
        or "parameters" in notebook["cells"][number - 1]["metadata"].get("tags", [])
    ]
    told = {line.split(" = ")[0] for line in first.splitlines()}
    names = {"pretrained_model_name": "model", "random_state": "seed"}
    assert {names.get(key, key) for key in SEEDS_FILE} <= told
    for name in told:  # each is passed on
        assert f"{name}={name}" in then or name == "config", name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_rank": 8}, ["lora_rank", "did you mean lora_r"]),
        ({"lora_r": 0}, ["lora_r", "0"]),
        ({"lora_r": True}, ["lora_r", "a number"]),
        ({"optim": "adam8"}, ["optim", "adamw_8bit"]),
        ({"model": "a", "pretrained_model_name": "b"}, ["two names"]),
        ({"save_steps": 150, "eval_steps": 100}, ["must be eval_steps", "150"]),
        ({"evaluation_strategy": "no"}, ["load_best_model_at_end"]),
        ({"use_gradient_checkpointing": "sometimes"}, ["use_gradient_checkpointing", "sometimes"]),
        ({"lora_target_modules": []}, ["lora_target_modules"]),
        ({"learning_rate": 3}, ["learning_rate"]),
        ({"ranks": [0, -3]}, ["ranks", "0"]),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, change, words):
    with pytest.raises(InputError) as raised:
        load(tmp_path, **change)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("settings", [ExportSettings, ZeroShotSettings])
def test_an_engine_is_told_under_our_names_or_vllms(settings):
    ours = settings.load(context=640, memory_share=0.3)
    theirs = settings.load(max_model_len=640, gpu_memory_utilization=0.3)
    assert (ours.context, ours.memory_share) == (theirs.context, theirs.memory_share) == (640, 0.3)
    for wrong in ({"context": 63}, {"memory_share": 0}, {"memory_share": 1}, {"context": 640, "max_model_len": 640}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            settings.load(**wrong)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_takes_steps_enough_on_the_courses_own_rows(profile):
    """With products alone, as where lesson 06 has not run; packed, they are hardly more sequences than a step takes."""
    settings = InstructionSettings.load(profile=profile, smoke=False)
    prompt = Prompt.for_tokenizer(load_tokenizer(str(repository_path(BASE))))
    rows = product_rows(settings.max_rows, settings.seed)
    rows, _ = split_by_text(rows, settings.val_share, settings.max_val_rows, settings.seed)
    rows = as_dataset(to_examples(rows, prompt, settings.max_seq_length)[1])
    if settings.packing:
        rows = pack_dataset(rows, settings.max_seq_length)
    steps = math.ceil(len(rows) / settings.rows_a_step) * settings.num_train_epochs
    assert steps >= 5 * settings.eval_steps and steps >= 10 * settings.warmup_steps


@pytest.mark.parametrize("name", ["solar", "mistral"])
def test_the_real_recipes(name):
    real = InstructionSettings.load(f"config/{name}.yaml", profile="a100", smoke=False)
    assert (real.lora_r, real.lora_alpha, real.learning_rate, real.num_train_epochs) == (8, 32, 2e-4, 3)
    assert (real.train_batch_size, real.gradient_accumulation_steps, real.rows_a_step) == (4, 4, 16)
    assert real.optim == "adamw_8bit" and real.max_seq_length == 2048
    assert real.lora_target_modules == SEVEN_PROJECTIONS
    small = InstructionSettings.load(f"config/{name}.yaml", profile="cpu", smoke=False)
    assert small.model.endswith("ko-mini-mistral") and small.optim == "adamw_torch"
    assert (small.depth_up_scale_dropped is not None) == (name == "solar")
    for profile in ("cpu", "t4", "a100"):
        assert InstructionSettings.load(f"config/{name}.yaml", profile=profile, smoke=True).max_steps == 4

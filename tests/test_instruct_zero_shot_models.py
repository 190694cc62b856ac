"""The models of lesson 10: three over one base; the adapter that the repository carries keeps to the form, and is verified."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.course.errors import InputError
from helpers.course.paths import repository_path, sample_data
from helpers.data.benchmarks import read_benchmark
from helpers.instruct.adapters import CARD_FILE, WEIGHTS, save_adapter
from helpers.instruct.models import load_language_model
from helpers.instruct.product_rows import product_rows
from helpers.instruct.prompts import Prompt
from helpers.instruct.scoring.backends import TransformersBackend
from helpers.instruct.scoring.questions import TASKS
from helpers.instruct.sft.trained_rows import read_trained_rows, write_trained_rows
from helpers.instruct.smallest import BATCH, SEED, STEPS
from helpers.instruct.tuning import SHARED_ADAPTER
from helpers.instruct.zero_shot import ZeroShotSettings, evaluate
from helpers.instruct.zero_shot_models import adapters_to_ask, learned_rows, models_to_ask

CHOOSER = sample_data("models", "ko-mini-mistral-chooser")


def asked(chooser):
    """Settings that train nothing: the tuned model is the chooser as well."""
    return ZeroShotSettings.load(adapter=CHOOSER, chooser=chooser, max_new_tokens=8, draws=100)


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(CHOOSER, tmp_path / "chooser")


def test_the_chooser_answers_tasks_that_it_never_saw_with_a_label_and_the_base_does_not():
    settings = asked(CHOOSER)
    models = models_to_ask(settings)
    assert list(models) == ["base", "tuned", "chooser"]
    for name in ("kornli", "question_pair", "hate_speech"):
        table = read_benchmark(name, sample_data("zero_shot")).head(30)
        coverage = {
            which: evaluate(models[which], TASKS[name], table, settings, ways=["free"])["free"].row["coverage"]
            for which in ("base", "chooser")
        }
        assert coverage["base"] < 0.1 and coverage["chooser"] > 0.9, name


def test_it_names_no_machine_and_its_base():
    config = json.loads((CHOOSER / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "sample_data/models/ko-mini-mistral"


def test_an_adapter_of_another_base_is_left_out_and_that_is_said(copied, capsys):
    (copied / CARD_FILE).write_text(json.dumps({"base": "other", "base_fingerprint": "0"}), encoding="utf-8")
    assert "chooser" not in models_to_ask(asked(copied))
    assert "is left out" in capsys.readouterr().out


def test_a_tuned_adapter_of_another_base_is_refused(copied):
    (copied / CARD_FILE).write_text(json.dumps({"base": "other", "base_fingerprint": "0"}), encoding="utf-8")
    with pytest.raises(InputError, match="trained on another base model"):
        models_to_ask(asked(None).changed(adapter=copied))


def test_a_damaged_or_missing_adapter_is_refused(copied, tmp_path):
    with open(copied / WEIGHTS, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(InputError, match="adapter_model"):
        models_to_ask(asked(copied))
    (copied / WEIGHTS).unlink()  # its card is still there
    for folder in (copied, tmp_path / "nothing"):
        with pytest.raises(InputError, match="no whole adapter"):
            models_to_ask(asked(folder))


def test_three_models_are_one_in_memory_and_answer_as_each_alone(tmp_path):
    base = str(sample_data("models", "ko-mini-mistral"))
    torch.manual_seed(5)
    tokenizer, model = load_language_model(base)
    random = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    other = save_adapter(random, Prompt.for_tokenizer(tokenizer), tmp_path / "other", base=base)
    shared = TransformersBackend.load(base, {"tuned": other, "chooser": CHOOSER})
    alone = {"base": TransformersBackend.load(base)["base"]}
    alone |= {name: TransformersBackend.load(base, {name: path})[name] for name, path in
              (("tuned", other), ("chooser", CHOOSER))}  # fmt: skip
    assert len({id(each.model.get_input_embeddings().weight) for each in shared.values()}) == 1
    task = TASKS["nsmc"]
    table = read_benchmark("nsmc", sample_data("zero_shot")).head(6)
    labels, words, found = task.label_ids(alone["base"].prompt), list(task.words.values()), []
    for which in ("tuned", "base", "chooser", "base", "tuned"):  # in turns: nobody speaks with another's voice
        one, own = shared[which], alone[which]
        prompts = task.prompts(one.prompt, table)
        torch.testing.assert_close(one.likelihoods(prompts, labels), own.likelihoods(prompts, labels), rtol=0, atol=0)
        assert one.free(prompts, 6) == own.free(prompts, 6)
        assert one.choose(prompts, words, labels) == own.choose(prompts, words, labels)
        assert one.facts == own.facts
        found.append(tuple(one.likelihoods(prompts, labels).flatten().tolist()))
    assert found[0] == found[4] and found[1] == found[3] and len(set(found)) == 3


def test_vllm_is_told_all_that_the_settings_say(monkeypatch, tmp_path):
    told = {}

    class FakeEngine:
        def __init__(self, model, **options):
            told.update(options)
            self.context = options["context"]
            config = SimpleNamespace(
                model_config=SimpleNamespace(dtype=torch.float16),
                scheduler_config=SimpleNamespace(
                    max_num_seqs=options["at_once"], max_num_batched_tokens=options["batch_tokens"]
                ),
            )
            self.llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config))

        def close(self):
            pass

    monkeypatch.setattr("helpers.instruct.vllm_engine.engine.Engine", FakeEngine)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)  # it would import mistral_common
    knobs = dict(batch_size=7, batch_tokens=320, max_model_len=640, gpu_memory_utilization=0.3, dtype="float16")
    settings = ZeroShotSettings.load(backend="vllm", output_dir=tmp_path, **knobs)
    base = models_to_ask(settings, {})["base"]
    wanted = {"at_once": 7, "batch_tokens": 320, "context": 640, "memory_share": 0.3, "dtype": "float16"}
    assert wanted.items() <= told.items()
    assert (base.room, base.facts["batch_size"], base.facts["batch_tokens"]) == (639, 7, 320)


def test_weights_in_4_bits_are_asked_for_kept_and_said():
    model = models_to_ask(asked(CHOOSER).changed(load_in_4bit=True))["chooser"]
    assert model.facts["dtype"] == "4 bits, computed in float32"
    prompts, labels = [model.prompt.prompt_ids("사과는 무슨 색?")], [[7], [9, 11]]
    exact = TransformersBackend.load(asked(CHOOSER).model, {"chooser": CHOOSER})["chooser"].likelihoods(prompts, labels)
    assert 1e-3 < (model.likelihoods(prompts, labels) - exact).abs().max() < 5
    with pytest.raises(InputError, match="load_in_4bit goes with backend transformers"):
        ZeroShotSettings.load(load_in_4bit=True, backend="vllm")


def test_what_an_adapter_learned_is_what_it_left(tmp_path):
    rows = [{"instruction": "분류해 줘.", "input": "참 좋다", "output": "긍정", "task": ""}] * 2
    assert read_trained_rows(tmp_path / "run" / "adapter") is None
    kept = write_trained_rows(tmp_path / "run", rows)
    assert kept == tmp_path / "run" / "trained_on.jsonl.gz" and kept.stat().st_size > 0
    assert read_trained_rows(tmp_path / "run" / "adapter") == read_trained_rows(tmp_path / "run") == rows
    assert learned_rows(tmp_path / "run" / "adapter") == rows
    write_trained_rows(tmp_path / "run" / "adapter", rows[:1])
    assert learned_rows(tmp_path / "run" / "adapter") == rows[:1]


def test_an_adapter_that_left_nothing_is_unknown_but_the_smallest_is_made_again():
    assert learned_rows(CHOOSER) is None and list(adapters_to_ask(asked(CHOOSER))) == ["tuned", "chooser"]
    assert learned_rows(repository_path(SHARED_ADAPTER)) == product_rows(STEPS * BATCH, SEED)

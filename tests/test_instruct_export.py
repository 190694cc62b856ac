"""Exports and their gate: what is admitted, what is refused and why, and that a refused export replaces nothing."""

import gc
import json
import shutil
import subprocess
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from helpers.course.atomic import replaced_folder
from helpers.course.checksums import sha256, weights_fingerprint, write_checksums
from helpers.course.errors import InputError
from helpers.course.machine import detect_machine
from helpers.course.paths import sample_data
from helpers.instruct.adapters import WEIGHTS, by_peft, save_adapter
from helpers.instruct.export import (
    REPORT_FILE,
    adapted_model,
    save_by_unsloth,
    save_lora,
    save_merged,
    save_whole,
    write_report,
)
from helpers.instruct.export_adapters import PROJECTIONS, manner_rows, save_scaled, train_manner
from helpers.instruct.exporting.figures import gate_figure
from helpers.instruct.exporting.gate import ExportGate
from helpers.instruct.exporting.probes import probe_questions
from helpers.instruct.generation import LocalModel, generate_ids
from helpers.instruct.models import load_language_model
from helpers.instruct.product_rows import DOMAINS, product_rows
from helpers.instruct.prompts import Prompt
from helpers.instruct.scoring.backends import TransformersBackend
from helpers.serving.settings import ServingSettings
from helpers.serving.worker import transformers_batch

TOLERANCE = 0.2
DAMAGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small random model in bfloat16, as base models come."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = AutoTokenizer.from_pretrained(sample_data("models", "ko-mini-mistral"))
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, sliding_window=None, initializer_range=0.1,
    )  # fmt: skip
    MistralForCausalLM(config).to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """An adapter that changes the model much: both of its matrices are random."""
    torch.manual_seed(1)
    tokenizer, model = load_language_model(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS, task_type="CAUSAL_LM", init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    return save_adapter(get_peft_model(model, config), Prompt.for_tokenizer(tokenizer), folder, base=base)


@pytest.fixture(scope="module")
def gate(base, adapter):
    return ExportGate.of(*adapted_model(base, adapter), probe_questions(6), tolerance=TOLERANCE, max_new_tokens=6)


@pytest.fixture(scope="module")
def merged(base, adapter, tmp_path_factory):
    return save_merged(base, adapter, tmp_path_factory.mktemp("merged"))


def weights_of(folder):
    return load_file(f"{folder}/model.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_merged_matrix_is_the_sum_rounded_once(base, adapter, dtype, tmp_path):
    before, lora = weights_of(base), load_file(adapter / WEIGHTS)
    after = weights_of(save_merged(base, adapter, tmp_path / "merged", dtype))
    front = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    exact = before["model.layers.0.self_attn.q_proj.weight"].float()
    exact = exact + 2.0 * (lora[f"{front}B.weight"].float() @ lora[f"{front}A.weight"].float())  # alpha / r = 8 / 4
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name].to(dtype), after[name])
    assert torch.equal(exact.to(dtype), after[name])
    same = [key for key in before if torch.equal(before[key].to(dtype), after[key])]
    assert all("proj" not in key for key in same) and len(same) == len(before) - 2 * len(PROJECTIONS)


def test_the_gate_admits_both_exports(gate, base, adapter, merged, tmp_path):
    agreement = gate.admit("merged_16bit", LocalModel.load(merged))
    assert 0 < agreement.difference < TOLERANCE  # bfloat16 did round something
    assert gate.base.difference > 5 * TOLERANCE and gate.base.reasons(TOLERANCE)
    alone = LocalModel(*adapted_model(base, save_lora(adapter, tmp_path / "lora")))
    assert gate.admit("lora", alone).difference < 1e-5


def test_unsloths_exports_pass_the_same_gate(gate, base, adapter, tmp_path):
    folder = save_by_unsloth(adapter, tmp_path)
    gate.admit("merged_16bit", LocalModel.load(folder / "merged_16bit"))
    gate.admit("lora", LocalModel(*adapted_model(base, folder / "lora")))


def other_prompt(base, merged, folder):
    save_whole(LocalModel.load(merged).model, Prompt.load(merged), folder, torch.bfloat16)
    Prompt.for_tokenizer(Prompt.load(merged).tokenizer, system="짧게 답하세요.").save(folder)


def one_matrix_noised(base, merged, folder):
    model = LocalModel.load(merged).model
    weight = model.get_parameter(DAMAGED).data
    weight += 0.5 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    save_whole(model, Prompt.load(merged), folder, torch.bfloat16)


BROKEN = {
    "not merged": (
        lambda base, merged, folder: save_whole(
            load_language_model(base)[1], Prompt.load(merged), folder, torch.bfloat16
        ),
        "log-probabilities differ",
    ),
    "merged twice": (None, "log-probabilities differ"),
    "another prompt": (other_prompt, "other token ids for 100% of the questions"),
    "one matrix noised": (one_matrix_noised, "log-probabilities differ"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_export_is_refused_with_the_reason_and_replaces_nothing(
    name, gate, base, adapter, merged, tmp_path
):  # fmt: skip
    make, reason = BROKEN[name]
    target = tmp_path / "shipped"
    with replaced_folder(target) as draft:
        (draft / "good.txt").write_text("good")
    with pytest.raises(InputError, match=reason) as refusal, replaced_folder(target) as draft:
        if make is None:
            save_merged(base, save_scaled(adapter, tmp_path / "scaled", 2.0), draft)
        else:
            make(base, merged, draft)
        gate.admit(name, LocalModel.load(draft))
    said = str(refusal.value)
    assert name in said and f"up to {TOLERANCE:g} nats" in said
    assert [path.name for path in target.iterdir()] == ["good.txt"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "scaled") == ["shipped"]


def test_an_admitted_export_takes_the_place_of_the_old_one(merged, tmp_path):
    for text in ("first", "second"):
        with replaced_folder(tmp_path / "shipped") as draft:
            (draft / text).write_text(text)
    assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["second"]


@pytest.fixture
def wide(base, adapter, tmp_path, monkeypatch):
    """A base in float32 and its adapter, on a machine that would hold models in bfloat16 by itself."""
    monkeypatch.setattr("helpers.course.machine.detect_machine", lambda: replace(detect_machine(), bf16=True))
    torch.manual_seed(2)
    tokenizer, model = load_language_model(base, "float32")
    assert load_language_model(base)[1].dtype == torch.bfloat16
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1 + 0.01 * torch.rand_like(weight)  # no number of bfloat16 any more
    model.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS, task_type="CAUSAL_LM", init_lora_weights=False)
    prompt = Prompt.for_tokenizer(tokenizer)
    return str(tmp_path / "wide"), save_adapter(
        get_peft_model(model, config), prompt, tmp_path / "own", base=str(tmp_path / "wide")
    )


def test_a_base_is_not_rounded_on_the_way_to_the_reference_or_the_merge(wide, tmp_path):
    base, adapter = wide
    before, lora, name = weights_of(base), load_file(adapter / WEIGHTS), "model.layers.0.self_attn.q_proj"
    adapted = adapted_model(base, adapter)[0]
    assert torch.equal(adapted.get_parameter(f"base_model.model.{name}.base_layer.weight"), before[f"{name}.weight"])
    a, b = (lora[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
    exact = (before[f"{name}.weight"] + 2.0 * (b @ a)).to(torch.float16)
    after = weights_of(save_merged(base, adapter, tmp_path / "merged", torch.float16))
    assert torch.equal(after[f"{name}.weight"], exact)
    shared = TransformersBackend.load(base, {"tuned": adapter})["base"].model
    assert torch.equal(shared.get_input_embeddings().weight, before["model.embed_tokens.weight"])
    served = transformers_batch(ServingSettings(model=base, tuned=False, dtype="float32", template="seed")).model
    assert torch.equal(served.get_input_embeddings().weight, before["model.embed_tokens.weight"])


def test_adapters_beside_a_base_in_bfloat16_leave_it_as_it_is_alone(base, adapter, monkeypatch):
    """A cast of the whole model would round its rotation angles, too, which are kept in float32."""
    monkeypatch.setattr("helpers.course.machine.detect_machine", lambda: replace(detect_machine(), bf16=True))
    alone = TransformersBackend.load(base, dtype="auto")["base"]
    prompts = [alone.prompt.prompt_ids("긴 질문입니다. " * 20 + question) for question, _ in probe_questions(4)]
    said = alone.likelihoods(prompts, [[50, 60], [70]])
    for dtype in ("auto", "bfloat16"):
        shared = TransformersBackend.load(base, {"tuned": adapter}, dtype=dtype)
        assert torch.equal(shared["base"].likelihoods(prompts, [[50, 60], [70]]), said)
        assert not torch.equal(shared["tuned"].likelihoods(prompts, [[50, 60], [70]]), said)
        assert {weight.dtype for weight in shared["base"].model.parameters()} == {torch.bfloat16}


OPENED = {
    "reference": lambda base, adapter, folder: adapted_model(base, adapter),
    "merge": lambda base, adapter, folder: save_merged(base, adapter, folder),
    "backend": lambda base, adapter, folder: TransformersBackend.load(base, {"tuned": adapter}),
    "training": lambda base, adapter, folder: by_peft(load_language_model(base)[1], base, adapter),
    "server": lambda base, adapter, folder: transformers_batch(
        ServingSettings(model=base, tuned=False, template="seed", adapters={"tuned": adapter})
    ),
}


@pytest.mark.parametrize("opened", OPENED)
def test_a_damaged_adapter_is_not_loaded(opened, base, adapter, tmp_path):
    copied = save_lora(adapter, tmp_path / "copy")
    write_checksums(copied)
    OPENED[opened](base, copied, tmp_path / "merged")
    content = bytearray((copied / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copied / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match=r"damaged or altered[\s\S]*adapter_model"):
        OPENED[opened](base, copied, tmp_path / "merged")


def test_a_damaged_merged_model_is_not_loaded(base, adapter, tmp_path):
    merged = save_merged(base, adapter, tmp_path / "merged")
    write_checksums(merged)
    content = bytearray((merged / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (merged / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="damaged or altered"):
        LocalModel.load(merged)


def test_unsloths_process_gets_the_memory_that_this_one_no_longer_uses(adapter, tmp_path, monkeypatch):
    class Model:
        pass

    gone = Model()
    gone.itself, seen = gone, weakref.ref(gone)  # a cycle: only the collector frees it

    def start(*_, **__):
        assert seen() is None
        return SimpleNamespace(returncode=1, stderr="not started")

    monkeypatch.setattr(subprocess, "run", start)
    gc.disable()
    del gone
    try:
        assert seen() is not None
        with pytest.raises(InputError, match="not started"):
            save_by_unsloth(adapter, tmp_path)
    finally:
        gc.enable()


def test_the_report_says_from_what_an_export_was_made_and_that_one_engine_refused_it(gate, base, adapter, tmp_path):
    def report(**found):
        path = write_report(tmp_path, gate, found, base=base, adapter=adapter, weights="bfloat16")
        assert path == tmp_path / REPORT_FILE
        return json.loads(path.read_text(encoding="utf-8"))

    good = replace(gate.base, equal_ids=1.0, equal_answers=0.75, ties=0.25, difference=0.01)
    first = report(transformers=good)
    assert first["admitted"] and first["found"]["transformers"]["refused_for"] == []
    assert (first["probes"], first["tolerance"], first["weights"]) == (6, TOLERANCE, "bfloat16")
    assert first["adapter_sha256"] == sha256(adapter / WEIGHTS) and first["base_fingerprint"] == weights_fingerprint(
        base
    )
    assert [first["found"]["transformers"][name] for name in ("equal_ids", "equal_answers", "ties")] == [1, 0.75, 0.25]
    second = report(transformers=good, vLLM=gate.base)
    assert not second["admitted"] and "log-probabilities" in second["found"]["vLLM"]["refused_for"][0]
    broken = report(transformers=replace(good, difference=float("inf")))
    assert broken["found"]["transformers"]["difference"] == "inf" and not broken["admitted"]  # JSON has no infinity
    assert not report()["admitted"]  # that nobody ran


def test_a_gate_that_could_not_refuse_is_not_made(base, adapter, tmp_path):
    nothing = save_scaled(adapter, tmp_path / "nothing", 0.0)
    with pytest.raises(InputError, match="cannot tell this adapter from none"):
        ExportGate.of(*adapted_model(base, nothing), probe_questions(4), tolerance=TOLERANCE, max_new_tokens=3)


def test_the_base_must_be_off_by_five_tolerances(gate, base, adapter):
    adapted, prompt = adapted_model(base, adapter)
    told = {"questions": gate.questions, "max_new_tokens": gate.max_new_tokens}
    with pytest.raises(InputError, match="cannot tell this adapter from none"):
        ExportGate.of(adapted, prompt, tolerance=gate.base.difference / 4.8, **told)
    again = ExportGate.of(adapted, prompt, tolerance=gate.base.difference / 5.2, **told)
    assert again.base.difference == pytest.approx(gate.base.difference)


def test_each_reason_to_refuse_is_one_of_its_own(gate):
    good = replace(gate.base, equal_ids=1.0, equal_answers=1.0, ties=0.0, difference=TOLERANCE)
    assert good.reasons(TOLERANCE) == []  # up to the tolerance
    assert good.reasons(0.99 * TOLERANCE)[0].startswith("log-probabilities differ")
    assert replace(good, equal_ids=0.99).reasons(TOLERANCE) == ["other token ids for 1% of the questions"]
    parts = replace(good, equal_answers=0.7, ties=0.2)
    assert parts.reasons(TOLERANCE) == ["other greedy answers to 10% of the questions"]
    assert replace(parts, ties=0.3).reasons(TOLERANCE) == []  # 0.7 + 0.3, whatever floating point makes of it
    assert replace(parts, equal_answers=0.1, ties=0.9 - 1e-12).reasons(TOLERANCE) == []


class Says:
    """A candidate that says what it is told to."""

    def __init__(self, gate, merged, answers=None, log_probs=None):
        self.prompt = Prompt.load(merged)
        self.answers, self.said = answers or gate.answers, log_probs or gate.log_probs

    def generate(self, prompts, max_new_tokens):
        return self.answers

    def log_probs(self, prompts, continuations):
        return self.said


def test_no_number_is_no_agreement(gate, merged):
    bad = [list(row) for row in gate.log_probs]
    assert not gate.compare(Says(gate, merged, log_probs=bad)).reasons(TOLERANCE)
    bad[2][1] = float("nan")
    agreement = gate.compare(Says(gate, merged, log_probs=bad))
    assert agreement.difference == float("inf") and agreement.where == "probe 3 of 6"
    with pytest.raises(InputError, match="probe 3 of 6"):
        gate.admit("nan", Says(gate, merged, log_probs=bad))


def test_another_answer_is_admitted_only_where_two_tokens_tie(gate, merged):
    other = [[(answer[0] + 1) % 8000, *answer[1:]] for answer in gate.answers[:1]] + gate.answers[1:]
    for lead, reasons in ((1.9 * TOLERANCE, 0), (2.1 * TOLERANCE, 1)):
        margins = [[lead] * len(gate.margins[0]), *gate.margins[1:]]
        own = replace(gate, margins=margins)
        agreement = own.compare(Says(gate, merged, answers=other))
        assert agreement.equal_answers == pytest.approx(5 / 6) and len(agreement.reasons(TOLERANCE)) == reasons
    shorter = [gate.answers[0][:-1], *gate.answers[1:]]
    assert "other greedy answers to 17%" in str(gate.compare(Says(gate, merged, answers=shorter)).reasons(TOLERANCE))


def test_a_tolerance_of_ones_own_decides_on_differences_and_on_ties(gate, merged):
    off = [[value + 0.5 * TOLERANCE for value in row] for row in gate.log_probs]
    other = [[(answer[0] + 1) % 8000, *answer[1:]] for answer in gate.answers[:1]] + gate.answers[1:]
    gate.admit("near", Says(gate, merged, log_probs=off))
    with pytest.raises(InputError, match="log-probabilities differ"):
        replace(gate, tolerance=0.25 * TOLERANCE).admit("far", Says(gate, merged, log_probs=off))
    tied = replace(gate, margins=[[1.9 * TOLERANCE] * len(gate.margins[0]), *gate.margins[1:]])
    assert tied.compare(Says(gate, merged, answers=other)).ties == pytest.approx(1 / 6)
    assert replace(tied, tolerance=0.5 * TOLERANCE).compare(Says(gate, merged, answers=other)).ties == 0


def test_another_vocabulary_is_refused_though_no_probe_touches_it(gate, merged):
    same = Says(gate, merged)
    same.prompt.tokenizer.add_tokens(["<new>"])
    agreement = gate.compare(same)
    assert agreement.equal_ids < 1 and agreement.difference == 0
    assert "other token ids for 17% of the questions" in agreement.reasons(TOLERANCE)


def test_the_texts_to_compare_may_not_stop_early(merged):
    told = []

    class Model(LocalModel):
        def generate(self, prompts, max_new_tokens, **how):
            told.append(how)
            written = super().generate(prompts, max_new_tokens, **how)
            return written if how else [ids[:1] for ids in written]  # an answer that stopped early

    loaded = LocalModel.load(merged)
    own = Model(loaded.model, loaded.prompt)
    gate = ExportGate.against(own, probe_questions(2), tolerance=TOLERANCE, max_new_tokens=3)
    assert told == [{}, {"min_new_tokens": 3}]
    assert [list(map(len, rows)) for rows in (gate.margins, gate.log_probs)] == [[1, 1], [3, 3]]  # of answers, of texts


@pytest.mark.parametrize(("written", "kept"), [([50, 3, 60, 3], [50, 3]), ([50, 60], [50, 60])])
def test_an_answer_ends_with_its_first_stop_token(merged, written, kept):
    model = SimpleNamespace(
        device="cpu", generate=lambda input_ids, **_: torch.tensor([input_ids[0].tolist() + written])
    )
    prompt = Prompt.load(merged)
    assert prompt.stop_ids == (3,)
    assert generate_ids(model, prompt, [[2, 7]], max_new_tokens=4) == [kept]


def test_a_base_that_wants_to_be_sampled_is_exported_without_that(base, adapter, tmp_path):
    wishes = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3}  # without do_sample: read, but not written
    (shutil.copytree(base, tmp_path / "base") / "generation_config.json").write_text(json.dumps(wishes))
    told = json.loads(
        (save_merged(str(tmp_path / "base"), adapter, tmp_path / "merged") / "generation_config.json").read_text()
    )
    assert (told["bos_token_id"], told["eos_token_id"], told["pad_token_id"]) == (2, [3], 0) and not set(wishes) & set(
        told
    )


def test_an_adapter_that_answers_in_a_chat_keeps_its_template(base, adapter, tmp_path):
    own = save_lora(adapter, tmp_path / "own")
    tokenizer = Prompt.load(adapter).tokenizer
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    tokenizer.save_pretrained(own)
    chat = Prompt.for_tokenizer(tokenizer, "chat")
    chat.save(own)
    again = Prompt.load(save_lora(own, tmp_path / "again"))
    assert again.template == "chat" and again.prompt_ids("안녕?") == chat.prompt_ids("안녕?")


def test_the_merge_undone_is_the_base(gate, base, adapter, merged, tmp_path):
    from peft import PeftModel

    undo = save_scaled(adapter, tmp_path / "undo", -1.0)
    model = PeftModel.from_pretrained(LocalModel.load(merged).model, str(undo))
    undone = gate.compare(LocalModel(model, Prompt.load(merged)))
    assert undone.difference == pytest.approx(gate.base.difference, rel=0.05)


def test_bad_exports_are_named(base, adapter, tmp_path):
    half = save_lora(adapter, tmp_path / "half")
    (half / "prompt.json").unlink()
    with pytest.raises(InputError, match=r"no whole adapter[\s\S]*prompt\.json"):
        save_lora(half, tmp_path / "copy")
    with pytest.raises(InputError, match="trained on another base model"):
        save_merged(str(sample_data("models", "ko-mini-mistral")), adapter, tmp_path / "merged")
    with pytest.raises(InputError, match=r"there is no such export[\s\S]*merged_4bit"):
        save_by_unsloth(adapter, tmp_path, ("merged_4bit",))
    weights = load_file(adapter / WEIGHTS)
    large = save_lora(adapter, tmp_path / "large")
    save_file({name: 1e4 * weight for name, weight in weights.items()}, large / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=r"do not fit into 16 bits[\s\S]*float16"):
        save_merged(base, large, tmp_path / "too_large", torch.float16)


def test_a_batch_answers_as_each_prompt_alone(merged):
    model = LocalModel.load(merged, batch_size=3)
    prompts = [model.prompt.prompt_ids(*question) for question in probe_questions(7)]
    assert len({len(ids) for ids in prompts}) > 2
    alone = [model.generate([ids], 5)[0] for ids in prompts]
    assert len({tuple(answer) for answer in alone}) > 1
    assert model.generate(prompts, 5) == alone == model.generate(prompts, 5, by_length=False)
    reversed_order = model.generate(prompts[::-1], 5)
    assert reversed_order[::-1] == alone


def test_log_probs_are_those_of_a_plain_forward_pass(merged):
    model = LocalModel.load(merged)
    prompt, text = model.prompt.prompt_ids("날씨가 어때요?"), [50, 60, 70]
    with torch.no_grad():
        logits = model.model(torch.tensor([prompt + text])).logits[0].log_softmax(-1)
    expected = [float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(text)]
    assert model.log_probs([prompt], [text])[0] == pytest.approx(expected, abs=1e-5)
    best = logits[len(prompt) - 1].topk(2).values
    assert model.margins([prompt], [text])[0][0] == pytest.approx(float(best[0] - best[1]), abs=1e-5)


def test_the_second_adapter_learns_and_leaves_the_model_as_it_was(merged, tmp_path):
    model = LocalModel.load(merged)
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    rows = manner_rows(product_rows(16))
    assert all(row["output"].startswith("이 상품은") and any(d in row["output"] for d in DOMAINS) for row in rows)
    losses = train_manner(
        model.model, model.prompt, rows, tmp_path / "manner", base=str(merged), steps=6, seed=0
    )  # fmt: skip
    assert losses[-1] < losses[0]
    after = model.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_figure_of_the_gate(gate):
    figure = gate_figure({"base": gate.base}, TOLERANCE)
    assert len(figure.axes[0].patches) == 1 and figure.axes[0].get_xscale() == "log"
    endless = replace(gate.base, difference=float("inf"))
    bars, labels = (lambda axes: (axes.patches, axes.texts))(
        gate_figure({"nan": endless, "base": gate.base}, TOLERANCE).axes[0]
    )
    assert [text.get_text() for text in labels] == [f"{gate.base.difference:.2g}", "inf"]
    assert bars[1].get_width() >= bars[0].get_width() and bars[0].get_facecolor() == bars[1].get_facecolor()
    gate_figure({"nan": endless}, TOLERANCE)

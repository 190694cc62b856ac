"""A look at answers: batches give what one question at a time gives, counting counts everything, files explain themselves."""

import copy
import json
import unicodedata
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.course.training_faults import Diverged, LoraDidNotMove
from helpers.instruct.models import load_language_model
from helpers.instruct.product_rows import TASK, product_rows
from helpers.instruct.prompts import Prompt
from helpers.instruct.sft.answer_scores import answer_scores, closed_tasks, majority_right
from helpers.instruct.sft.command import main
from helpers.instruct.sft.loss import response_loss
from helpers.instruct.sft.make_config import explained, make_config
from helpers.instruct.sft.preview import Answer, answers, side_by_side, stream
from helpers.instruct.sft.settings import InstructionSettings
from helpers.instruct.tuning import BASE
from helpers.instruct.watching import DivergenceWatch, LoraWatch, lora_b


@pytest.fixture(scope="module")
def base():
    tokenizer, model = load_language_model(BASE)
    return model.float(), Prompt.for_tokenizer(tokenizer)


def test_a_batch_gives_the_answers_of_one_question_at_a_time(base):
    """With random weights: they answer each question in another way, whatever the shipped ones have learned."""
    prompt = base[1]
    config = copy.deepcopy(base[0].config)
    config.hidden_size, config.intermediate_size, config.head_dim, config.tie_word_embeddings = 64, 96, 16, False
    torch.manual_seed(0)
    model = type(base[0])(config).eval()
    rows = product_rows(5)
    together = answers(model, prompt, rows, max_new_tokens=6, batch_size=3)
    alone = [answers(model, prompt, [row], max_new_tokens=6)[0] for row in rows]
    assert together == alone and len({one.text for one in together}) > 1
    assert model.training is False


def test_the_longest_questions_come_first(base, monkeypatch):
    """What does not fit into memory fails in the first batch, not in the last."""
    model, prompt = base
    widths, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **told: widths.append(told["input_ids"].shape[1]) or generate(**told))
    answers(model, prompt, product_rows(6), max_new_tokens=1, batch_size=2)
    assert len(widths) == 3 and widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_a_model_is_loaded_in_the_precision_that_is_asked_for():
    as_stored, in_4_bits = (load_language_model(BASE, torch.float32, load_in_4bit=four)[1] for four in (False, True))
    assert as_stored.dtype == torch.float32 and not as_stored.training
    assert in_4_bits.get_memory_footprint() < 0.6 * as_stored.get_memory_footprint()
    layer = in_4_bits.model.layers[0].mlp.up_proj
    assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested  # as Unsloth's QLoRA


def test_a_streamed_answer_is_the_answer(base, capsys):
    model, prompt = base
    row = product_rows(1)[0]
    text = stream(model, prompt, row["instruction"], row["input"], max_new_tokens=6)
    assert text == answers(model, prompt, [row], max_new_tokens=6)[0].text
    assert text in capsys.readouterr().out
    other = stream(model, prompt, row["instruction"], row["input"], system="짧게.", max_new_tokens=6, do_sample=False)
    assert isinstance(other, str)


def test_the_loss_counts_every_token_once_whatever_the_batch(base):
    model, prompt = base
    rows = [prompt.example(row["instruction"], row["output"] + tail, row["input"])
            for row, tail in zip(product_rows(4), ("", " 분야입니다.", " 쪽", ""), strict=True)]  # fmt: skip
    whole = response_loss(model, prompt, rows, batch_size=4)
    assert response_loss(model, prompt, rows, batch_size=1) == pytest.approx(whole, rel=1e-4)
    with torch.no_grad():
        each = [response_loss(model, prompt, [row]) * row.trained for row in rows]
    assert whole == pytest.approx(sum(each) / sum(row.trained for row in rows), rel=1e-4)


def test_every_answer_counts():
    rows = [
        {"instruction": "가", "input": "", "output": label, "task": "감정"}
        for label in ("긍정", "부정", "긍정", "긍정")
    ]
    free = {"instruction": "나", "input": "", "output": "긴 대답입니다.", "task": "대화"}
    labels = closed_tasks([*rows, *rows, *(free | {"output": f"대답 {n}"} for n in range(9))])
    assert labels == {"감정": {"긍정", "부정"}}
    given = [
        Answer("긍정", True),
        Answer("긍정", True),
        Answer("긍정적이에요", False),
        Answer("모름", True),
        Answer("네", False),
    ]
    assert answer_scores([*rows, free], given, labels) == {"ends": 3 / 5, "in form": 2 / 4, "right": 1 / 4}
    assert answer_scores([free], [Answer("네", True)], labels) == {"ends": 1.0}
    apart = [row | {"output": unicodedata.normalize("NFD", row["output"])} for row in rows]  # learned as NFC
    assert closed_tasks([*apart, *apart]) == labels and majority_right(apart, rows, labels) == 3 / 4
    assert answer_scores(apart, given[:4], labels)["right"] == 1 / 4
    assert majority_right(rows, rows, labels) == 3 / 4 and majority_right([free], rows, labels) is None
    table = side_by_side([free], base=given[-1:], tuned=given[:1])
    assert list(table.columns) == ["question", "wanted", "base", "tuned"] and table["base"][0].endswith("…")
    assert closed_tasks(product_rows())[TASK] == {row["output"] for row in product_rows()}


def test_a_made_settings_file_is_complete_and_explains_itself(tmp_path):
    settings = InstructionSettings.load(
        "config/solar.yaml", profile="a100", output_dir=tmp_path, lora_r=64, smoke=False
    )
    path = make_config(settings, tmp_path / "mine.yaml")
    again = InstructionSettings.load(path, output_dir=tmp_path, smoke=False)
    for key, value in settings:
        if key not in ("config", "profile"):
            assert getattr(again, key) == value, key
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(line.split("# ")[1].strip() for line in lines)
    table = explained(settings, "lora_r")
    assert table.values.tolist() == [["lora_r", "64", "rank: how many directions a correction has"]]


def test_the_command_names_a_wrong_setting(tmp_path, capsys):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"pretrained_model_name": BASE, "lora_rr": 8}))
    assert main(["--config_path", str(path), "--profile", "cpu"]) == 2
    assert "lora_rr" in (said := capsys.readouterr().err) and "wrong.json" in said
    assert main(["--config_path", "config/mistral.yaml", "--profile", "cpu", "-p", "lora_r", "zero"]) == 2


def test_an_adapter_that_does_not_move_is_named(base):
    model = get_peft_model(base[0], LoraConfig(r=2, target_modules=["q_proj"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = LoraWatch()
    told = {"model": model, "optimizer": optimizer}
    watch.on_pre_optimizer_step(None, None, None, **told)
    optimizer.param_groups[0]["lr"] = 0.0  # the first step of a warm-up moves nothing, rightly
    watch.on_optimizer_step(None, None, None, **told)
    assert not watch.checked
    optimizer.param_groups[0]["lr"] = 0.1
    with pytest.raises(LoraDidNotMove, match=r"8 of 8 lora_B.*no gradient"):
        watch.on_optimizer_step(None, None, None, **told)
    with torch.no_grad():
        for weight in lora_b(model).values():
            weight += 0.1
    watch.on_optimizer_step(None, None, None, **told)
    assert watch.checked
    model.unload()


def test_what_the_last_step_left_is_looked_at():
    """Its loss was finite, and no further one follows."""
    model, told = torch.nn.Linear(2, 2), (SimpleNamespace(learning_rate=0.5), SimpleNamespace(global_step=3), None)
    DivergenceWatch().on_train_end(*told, model=model)
    model.bias.data[1] = float("nan")
    with pytest.raises(Diverged, match=r"(?s)largest value of bias is not a finite number.*step 3.*it is 0.5"):
        DivergenceWatch().on_train_end(*told, model=model)
    model.bias.requires_grad_(False)  # it did not learn
    DivergenceWatch().on_train_end(*told, model=model)


@pytest.mark.parametrize("seen", ["in the gradient", "by the optimizer"])
def test_a_step_that_overflowed_is_not_judged(base, seen):
    """float16: the first scale is a guess, GradScaler skips the step, transformers calls the callback all the same."""
    model = get_peft_model(base[0], LoraConfig(r=2, target_modules=["q_proj"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step_was_skipped = seen == "by the optimizer"
    for weight in lora_b(model).values():
        weight.grad = torch.full_like(weight, float("inf") if seen == "in the gradient" else 1.0)
    watch, told = LoraWatch(), {"model": model, "optimizer": optimizer}
    watch.on_pre_optimizer_step(None, None, None, **told)
    watch.on_optimizer_step(None, None, None, **told)  # nothing moved, rightly
    assert not watch.checked
    with pytest.raises(LoraDidNotMove, match="not finite"):
        watch.on_train_end(None, SimpleNamespace(global_step=1), None)
    optimizer.step_was_skipped = False
    for weight in lora_b(model).values():
        weight.grad = torch.ones_like(weight)
    watch.on_pre_optimizer_step(None, None, None, **told)
    with pytest.raises(LoraDidNotMove, match="8 of 8"):  # a step that was taken is judged
        watch.on_optimizer_step(None, None, None, **told)
    model.unload()

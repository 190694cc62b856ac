"""DPO: our loss against trl's, pairs checked, ids of the prompt object, win rates that length cannot fool."""

import copy
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from helpers.course.errors import InputError
from helpers.course.jsonl import read_jsonl, write_jsonl
from helpers.course.paths import REPOSITORY, repository_path, sample_data
from helpers.course.rejects import Rejects
from helpers.course.settings import PROFILES
from helpers.instruct.dpo.loss import (
    answer_lengths,
    dpo_loss,
    need_ln_2,
    padded,
    pair_log_probs,
    rewards,
    sequence_log_probs,
)
from helpers.instruct.dpo.preference_sets import length_table, preference_sets
from helpers.instruct.dpo.run import without_reference
from helpers.instruct.dpo.settings import DpoSettings
from helpers.instruct.dpo.win_rate import length_matched_win_rate, longer_preferred, value_of_a_token, win_rate, wins
from helpers.instruct.preferences import Pair, length_matched, need_apart, read_pairs, split_by_prompt, to_pair
from helpers.instruct.prompts import Prompt

GOOD = {"prompt": "몇 시에 열어요?", "chosen": "아홉 시에 엽니다.", "rejected": "아홉 시."}


@pytest.fixture(scope="module")
def prompt():
    from transformers import AutoTokenizer

    return Prompt.for_tokenizer(AutoTokenizer.from_pretrained(repository_path("sample_data/models/ko-mini-mistral")))


@pytest.fixture(scope="module")
def pairs(prompt):
    return read_pairs(sample_data("preferences/test.jsonl"), prompt, 128)


def tiny(seed=3):
    torch.manual_seed(seed)
    shape = dict(vocab_size=8192, hidden_size=16, intermediate_size=32, num_hidden_layers=1, initializer_range=0.5)
    config = MistralConfig(num_attention_heads=2, num_key_value_heads=1, attn_implementation="eager", **shape)
    return MistralForCausalLM(config).double().eval()


def trl_loss(pairs, model, reference, pad_id, beta, loss_type):
    """The loss of trl's own ``DPOTrainer._compute_loss`` on trl's own batch, its Triton kernel replaced by plain torch."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    batch = DataCollatorForPreference(pad_token_id=pad_id)([pair.columns() for pair in pairs])

    def scored(own):
        def forward(input_ids, attention_mask, labels, **_):
            logits = own(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
            labels = labels[:, 1:]
            log_probs = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
            zero = torch.zeros_like(log_probs)
            return SimpleNamespace(log_probs=log_probs, entropy=zero, mean_logits=zero, is_top1=zero.bool())

        return forward

    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    start = scored(reference)(batch["input_ids"], batch["attention_mask"], labels).log_probs.sum(1).chunk(2)
    batch |= {"ref_chosen_logps": start[0], "ref_rejected_logps": start[1]}
    kept = {name: [] for name in ("entropy", "num_tokens", "logits/chosen", "logits/rejected", "mean_token_accuracy")}
    kept |= {f"rewards/{name}": [] for name in ("chosen", "rejected", "accuracies", "margins")}
    kept |= {"logps/chosen": [], "logps/rejected": []}
    same = dict(gather=lambda each: each, gather_for_metrics=lambda each: each, device=torch.device("cpu"))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=SimpleNamespace(**same), aux_loss_enabled=False, beta=beta,
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type],
        loss_weights=[1.0], use_weighting=False, _metrics={"eval": kept}, _total_train_tokens=0,
    )  # fmt: skip
    return DPOTrainer._compute_loss(trainer, scored(model), batch, False), kept


def our_log_probs(pairs, model, pad_id):
    sides = []
    for key in ("chosen_ids", "rejected_ids"):
        ids, labels = padded([pair.prompt_ids for pair in pairs], [getattr(pair, key) for pair in pairs], pad_id)
        sides.append(sequence_log_probs(model(input_ids=ids).logits, labels))
    return torch.stack(sides, 1)


@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm"])
def test_our_loss_is_trls_in_float64(pairs, prompt, loss_type):
    model, reference, some = tiny(3), tiny(4), pairs[:4]
    with torch.no_grad():
        policy, start = (our_log_probs(some, each, prompt.pad_id) for each in (model, reference))
        theirs, kept = trl_loss(some, model, reference, prompt.pad_id, 0.3, loss_type)
    lengths = answer_lengths(some) if loss_type == "sigmoid_norm" else None
    ours = dpo_loss(policy, start, 0.3, lengths).mean()
    assert theirs.dtype == torch.float64 and abs(theirs - math.log(2)) > 0.01
    wrong = [dpo_loss(policy, start, 0.29, lengths).mean(), dpo_loss(policy.flip(1), start.flip(1), 0.3).mean()]
    for other in wrong:  # the comparison can fail
        assert abs(other - theirs) > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    worth = rewards(policy, start, 0.3).mean(0)
    assert kept["rewards/chosen"][0] == pytest.approx(worth[0].item(), rel=1e-10)
    assert kept["rewards/rejected"][0] == pytest.approx(worth[1].item(), rel=1e-10)


def test_the_gradient_of_our_loss_is_trls(pairs, prompt):
    found = []
    for which in ("ours", "trl"):
        model, reference = tiny(3), tiny(4)
        with torch.no_grad():
            start = our_log_probs(pairs[:3], reference, prompt.pad_id)
        if which == "ours":
            loss = dpo_loss(our_log_probs(pairs[:3], model, prompt.pad_id), start, 0.3).mean()
        else:
            loss, _ = trl_loss(pairs[:3], model, reference, prompt.pad_id, 0.3, "sigmoid")
        loss.backward()
        found.append(model.lm_head.weight.grad)
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_the_first_loss_is_ln_2_and_anything_else_is_told(pairs, prompt):
    model = tiny()
    with torch.no_grad():
        start = our_log_probs(pairs[:2], model, prompt.pad_id)
    for beta in (0.01, 5.0):
        assert dpo_loss(start, start, beta).mean().item() == pytest.approx(math.log(2), abs=1e-12)
    need_ln_2(0.69315)
    with pytest.raises(RuntimeError, match="another model than the start"):
        need_ln_2(0.6985)


def test_log_probabilities_do_not_depend_on_batches_or_order(pairs, prompt):
    model, pairs = tiny().float(), pairs[:7]
    one_by_one = torch.cat([pair_log_probs(model, [pair], prompt.pad_id) for pair in pairs])
    assert (one_by_one - one_by_one.flip(0)).abs().max() > 1  # the comparison can fail
    torch.testing.assert_close(pair_log_probs(model, pairs, prompt.pad_id, 3), one_by_one, rtol=1e-5, atol=1e-4)


def test_the_ids_of_a_pair_are_those_of_instruction_tuning(pairs, prompt):
    for pair in pairs:
        for text, ids in ((pair.chosen, pair.chosen_ids), (pair.rejected, pair.rejected_ids)):
            assert pair.prompt_ids + ids == prompt.example(pair.prompt, text).input_ids
            assert ids[-1] == prompt.stop_ids[0] and prompt.bos_id not in ids
        assert pair.prompt_ids == prompt.prompt_ids(pair.prompt) and pair.prompt_ids.count(prompt.bos_id) == 1


FAULTS = {
    "chosen and rejected are the same": {"rejected": " 아홉  시에 엽니다."},
    "chosen is empty": {"chosen": "\n"},
    "rejected is empty": {"rejected": "\u200b\ufeff"},  # nothing that is seen
    "part is no text": {"part": None},
    "rejected is missing or no text": {"rejected": 9},
    "the pair is longer than 64 tokens": {"chosen": "아홉 시에 엽니다. " * 40},
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_faulty_pair_is_named_with_file_and_line(what, tmp_path, prompt):
    path = write_jsonl(tmp_path / "pairs.jsonl", [GOOD, GOOD | FAULTS[what]])
    with pytest.raises(InputError) as told:
        read_pairs(path, prompt, 64)
    assert told.value.what == what and told.value.place == "line 2" and "pairs.jsonl" in told.value.file
    rejects = Rejects(tmp_path / "out.jsonl")
    assert [pair.line for pair in read_pairs(path, prompt, 64, rejects)] == [1]
    assert rejects.counts == {what: 1} and rejects.rows[0]["line"] == 2


@pytest.mark.parametrize("longer", ["chosen", "rejected"])
def test_a_pair_may_be_as_long_as_is_allowed_and_no_longer(longer, tmp_path, prompt):
    row = GOOD | {longer: "아홉 시에 엽니다. " * 8}
    path, pair = write_jsonl(tmp_path / "pairs.jsonl", [row]), to_pair(row, prompt)
    longest = len(pair.prompt_ids) + len(getattr(pair, f"{longer}_ids"))
    assert len(read_pairs(path, prompt, longest)) == 1
    with pytest.raises(InputError, match=f"longer than {longest - 1} tokens"):
        read_pairs(path, prompt, longest - 1)


def test_questions_without_a_letter_are_told_apart(prompt):
    one, other = (to_pair(GOOD | {"prompt": text}, prompt) for text in ("?", "!!"))
    assert need_apart([one], [other]) == [one]


def test_a_special_token_in_a_chat_costs_its_pair_not_the_run(tmp_path, prompt):
    tokenizer = copy.deepcopy(prompt.tokenizer)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    path = write_jsonl(tmp_path / "pairs.jsonl", [GOOD, GOOD | {"prompt": "</s>는 무엇인가요?"}])
    chat, rejects = Prompt.for_tokenizer(tokenizer, "chat"), Rejects(tmp_path / "out.jsonl")
    assert [pair.line for pair in read_pairs(path, chat, 64, rejects)] == [1]
    assert rejects.rows[0]["line"] == 2 and "special tokens" in rejects.rows[0]["reason"]
    with pytest.raises(InputError, match=r"(?s)special tokens.*pairs.jsonl, line 2"):
        read_pairs(path, chat, 64)


def test_a_question_on_both_sides_is_named_with_both_places(tmp_path, prompt):
    train = read_pairs(
        write_jsonl(tmp_path / "train.jsonl", [GOOD | {"prompt": "몇시에 열어요??"}, GOOD | {"prompt": "어디예요?"}]),
        prompt,
        64,
    )
    test = read_pairs(write_jsonl(tmp_path / "test.jsonl", [GOOD | {"prompt": "누구세요?"}, GOOD]), prompt, 64)
    with pytest.raises(InputError, match=r"test\.jsonl, line 2") as told:
        need_apart(train, test)
    assert told.value.place == "line 1" and "train.jsonl" in told.value.file
    rejects = Rejects(tmp_path / "out.jsonl")
    assert [pair.prompt for pair in need_apart(train, test, rejects)] == ["어디예요?"] and len(rejects) == 1
    with pytest.raises(InputError, match="every question"):
        need_apart(train[:1], test, rejects)


def test_the_courses_pairs_are_what_their_card_says(prompt, pairs):
    train = read_pairs(sample_data("preferences/train.jsonl"), prompt, 64)
    assert need_apart(train, pairs) == train and (len(train), len(pairs)) == (114, 38)
    assert len({pair.question for pair in [*train, *pairs]}) == 152
    table = length_table([*train, *pairs]).set_index("part")
    assert table.loc["style"].tolist()[:3] == [68, 32, 22] and table.loc["quality"].tolist()[:3] == [48, 18, 15]
    assert table.loc["length"].tolist()[:3] == [36, 36, 0] and {pair.part for pair in pairs} == {"style", "quality"}
    assert all(
        set(row) == {"prompt", "chosen", "rejected", "part"}
        for row in read_jsonl(sample_data("preferences/test.jsonl"))
    )


def test_one_file_is_split_by_text(tmp_path, prompt):
    rows = [
        GOOD | {"prompt": f"{number}번 문은 어디예요?", "chosen": f"{turn}층입니다."}
        for number in range(8)
        for turn in (1, 2)
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    settings = DpoSettings.load(train_path=path, output_dir=tmp_path / "out", smoke=False)
    sets = preference_sets(settings, prompt)
    assert (len(sets.train), len(sets.test), len(sets.rejects)) == (12, 4, 0)
    assert not {pair.question for pair in sets.train} & {pair.question for pair in sets.test}
    assert [pair.prompt[0] for pair in split_by_prompt(read_pairs(path, prompt, 64), 4)[1]] == ["3", "3", "7", "7"]
    write_jsonl(tmp_path / "test.jsonl", rows[:2])
    beside = preference_sets(settings, prompt)
    assert (len(beside.train), len(beside.test), len(beside.rejects)) == (14, 2, 2)
    with pytest.raises(InputError, match="too few different questions"):
        split_by_prompt(sets.train[:2], 4)


def test_matched_pairs_are_longer_as_often_as_shorter(prompt):
    texts = ["네.", "네, 지금 갑니다.", "네, 지금 바로 그리로 가겠습니다. 조금만 기다려 주세요."]
    rows = [dict(prompt=f"{number}번?", chosen=texts[1 + number % 2], rejected=texts[0]) for number in range(6)]
    rows += [
        dict(prompt="일곱?", chosen=texts[0], rejected=texts[1]),
        dict(prompt="여덟?", chosen="가요.", rejected="와요."),
    ]
    pairs = [to_pair(row, prompt) for row in rows]
    matched = length_matched(pairs)
    assert [pair.prompt for pair in matched] == ["0번?", "일곱?", "여덟?"]  # the nearest difference is the partner
    assert sum(pair.difference for pair in matched[:2]) == 0
    with pytest.raises(InputError, match=r"(?s)lengths are matched.*longer in 6 pairs, shorter in 0"):
        length_matched(pairs[:6])


def test_lengths_are_matched_not_only_counted():
    differences = [1, 2, 3, 30, 31, -29, -30]
    pairs = [
        Pair("", "", "", "", "", 1, [], [0] * (40 + max(each, 0)), [0] * (40 - min(each, 0))) for each in differences
    ]
    assert [pair.difference for pair in pairs] == differences
    assert [pair.difference for pair in length_matched(pairs)] == [30, 31, -29, -30]


def test_a_value_that_is_no_number_is_no_tie():
    values = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    with pytest.raises(InputError, match="pair 1"):
        win_rate(values)
    with pytest.raises(InputError, match="pair 0"):
        length_matched_win_rate(values.flip(0), torch.tensor([[2, 1], [1, 2]]))


def test_a_cut_off_run_goes_on_and_a_wrong_reference_stops_at_the_first_step(tmp_path):
    """From an adapter whose base is named by a path from the repository's root, in another working folder."""
    command = [sys.executable, "-m", "tests.instruct_dpo_run", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["steps"] == [1, 2, 3, 4] and said["resumed_from"] == 2 and said["matrices"] == 2 * 8 * 7
    assert said["same"] is True and said["same_losses"] is True
    assert "another model than the start" in said["refused"] and said["refused_at"] <= 1


def test_a_judge_that_looks_only_at_length_gets_one_half():
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 40, (60, 2), generator=draw)
    lengths[:40, 0] += 60  # chosen is longer in most pairs
    for liking in (1.0, -1.0):
        values = liking * lengths.double()
        assert abs(win_rate(values).share - 0.5) > 0.2
        rate = length_matched_win_rate(values, lengths)
        assert rate.share == rate.low == rate.high == 0.5
        liked = longer_preferred(values, lengths)
        assert liked.share == liked.low == liked.high == (liking > 0)
        assert value_of_a_token(values, lengths) == pytest.approx(liking)
    right = torch.tensor([[1.0, 0.0]]).expand(60, 2)
    assert length_matched_win_rate(right, lengths).share == win_rate(right).share == 1
    assert value_of_a_token(right, lengths) == pytest.approx(0)
    few = longer_preferred(torch.randn(30, 2, generator=draw), lengths[30:])
    assert few.high - few.low > 0.25  # thirty pairs say little
    with pytest.raises(InputError, match="unequal length"):
        longer_preferred(right, torch.ones(60, 2))
    with pytest.raises(InputError, match="0 shorter"):
        length_matched_win_rate(right[:40], lengths[:40])


def test_a_tie_is_half_a_win_and_the_interval_holds_95_percent():
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    assert wins(values).tolist() == [1, 0, 0.5]
    rate = win_rate(values[:2].repeat(200, 1), 4000)
    width = 2 * 1.96 * (0.25 / 400) ** 0.5  # of 95 percent; 90 percent are narrower by a sixth
    assert rate.high - rate.low == pytest.approx(width, rel=0.08)
    few = [win_rate(values[:2].repeat(200, 1), 20, seed) for seed in (13, 13, 14)]
    assert few[0] == few[1] != few[2]


def test_pairs_of_equal_length_say_nothing_of_length():
    lengths, values = torch.tensor([[3, 1], [1, 3], [2, 2]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert length_matched_win_rate(values, lengths).share == 1
    assert longer_preferred(values, lengths).share == 0.5
    with pytest.raises(InputError, match="differ by the same length"):
        value_of_a_token(values, torch.tensor([[3, 1], [4, 2], [5, 3]]))


def test_the_interval_covers_a_coins_share_as_often_as_it_says():
    draw = torch.Generator().manual_seed(1)
    covered = []
    for _ in range(100):
        won = (torch.rand(60, generator=draw) < 0.7).double()
        rate = win_rate(torch.stack([won, 1 - won], 1), 300)
        assert rate.low <= rate.share <= rate.high
        covered.append(rate.low <= 0.7 <= rate.high)
    assert 0.88 <= sum(covered) / len(covered) <= 0.99


def test_the_reference_adapter_is_not_saved(tmp_path):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny().float(), config)
    model.add_adapter("ref", config)
    model.save_pretrained(str(tmp_path / "both"), save_embedding_layers=False)
    assert (tmp_path / "both" / "ref").is_dir()  # what would happen
    without_reference(model).save_pretrained(str(tmp_path / "one"), save_embedding_layers=False)
    assert not (tmp_path / "one" / "ref").exists() and (tmp_path / "one" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_takes_steps_enough_on_the_courses_own_pairs(profile, prompt):
    settings = DpoSettings.load(profile=profile, smoke=False)
    rows_a_step = settings.train_batch_size * settings.gradient_accumulation_steps
    pairs = read_pairs(settings.train_path, prompt, settings.max_length)
    steps = math.ceil(len(pairs) / rows_a_step) * settings.num_train_epochs
    assert steps >= 10 * settings.warmup_steps


def test_the_trainer_is_told_of_checkpointing():
    from helpers.instruct.dpo.trainer import trainer_arguments

    for asked in (False, True, "unsloth"):
        settings = DpoSettings.load(smoke=False, use_gradient_checkpointing=asked)
        assert trainer_arguments(settings, torch.float32).gradient_checkpointing is bool(asked)


def test_settings_say_what_does_not_go_together():
    assert DpoSettings.load(smoke=False).train_path.is_file()
    with pytest.raises(InputError, match="sft_weight"):
        DpoSettings.load(smoke=False, sft_weight=1.0, loss_type="sigmoid_norm")
    with pytest.raises(InputError, match="beta"):
        DpoSettings.load(smoke=False, beta=0)
    with pytest.raises(InputError, match="betas"):
        DpoSettings.load(smoke=False, betas=[-1, 0.1])
    notebook = json.loads((REPOSITORY / "notebooks/08_preference_dpo.ipynb").read_text(encoding="utf-8"))
    cell = next(one for one in notebook["cells"] if "parameters" in one["metadata"].get("tags", []))
    told = [line.split(" = ")[0] for line in "".join(cell["source"]).splitlines()]
    assert set(told) - {"profile", "config", "smoke"} <= set(DpoSettings.model_fields)

"""The fast label likelihood against the naive one: equal in float32 for any prompts and labels, and never by accident."""

from types import SimpleNamespace

import pytest
import torch
from transformers import BloomConfig, MistralConfig, MistralForCausalLM

from helpers.course.errors import InputError
from helpers.instruct.scoring import likelihood
from helpers.instruct.scoring.label_tree import LabelTree
from helpers.instruct.scoring.likelihood import label_likelihoods, naive_likelihoods, room_of
from helpers.instruct.scoring.shared_beginnings import families, shared_prefix
from helpers.instruct.scoring.tree_scoring import batches, score_labels

LABELS = {
    "one token each": [[7], [9]],
    "one and three": [[7], [9, 11, 13]],
    "shared beginnings": [[7, 8], [7, 8, 9], [7, 10], [12, 8, 9]],
    "one begins the other": [[7], [7, 8]],
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=None,
        initializer_range=0.3,  # far from uniform: a wrong mask or position changes the figures
    )
    return MistralForCausalLM(config).eval()


def prompts_of(lengths, begin):
    draw = torch.Generator().manual_seed(1)
    return [begin + torch.randint(3, 60, (n,), generator=draw).tolist() for n in lengths]


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("begin", [[2, 5, 6, 5, 4], [2], []], ids=["shared prefix", "only BOS", "nothing shared"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_fast_and_naive_are_equal(model, labels, begin, batch_tokens):
    prompts = prompts_of([3, 11, 1, 6, 6, 17, 2], begin)
    naive = naive_likelihoods(model, prompts, labels)
    assert naive.std() > 1  # else two wrong ways could look alike
    fast = label_likelihoods(model, prompts, labels, batch_tokens=batch_tokens)
    torch.testing.assert_close(fast, naive, atol=1e-4, rtol=0)


def test_rows_that_begin_alike_are_read_once_and_score_the_same(model, monkeypatch):
    premises = prompts_of([9, 12, 10, 8], [2, 5, 6])
    hypotheses = prompts_of([4, 1, 7, 3], [])
    prompts = [premise + hypothesis for premise in premises for hypothesis in hypotheses] + prompts_of([5, 14], [2, 5])
    naive = naive_likelihoods(model, prompts, LABELS["one and three"])
    lengths = []
    real = likelihood.score_labels
    monkeypatch.setattr(
        likelihood, "score_labels", lambda m, own, *rest: (lengths.extend(map(len, own)), real(m, own, *rest))[1]
    )
    for batch_tokens in (1, 30, 4096):
        lengths.clear()
        fast = label_likelihoods(model, prompts, LABELS["one and three"], batch_tokens=batch_tokens)
        torch.testing.assert_close(fast, naive, atol=1e-4, rtol=0)
        assert sum(lengths) == 4 * (4 + 1 + 7 + 3) + 5 + 14  # premises are not in it


@pytest.mark.parametrize("batch_tokens", [60, 70, 107, 4096])
def test_a_batch_holds_no_more_than_batch_tokens_with_what_its_rows_share(model, monkeypatch, batch_tokens):
    premises, hypotheses = prompts_of([9, 12, 10, 8], list(range(3, 23))), prompts_of([4, 1, 7, 3], [])
    prompts = [one + other for one in premises for other in hypotheses] + prompts_of([5, 14, 6, 9], list(range(3, 23)))
    held, forward = [], model.forward

    def watched(*args, **told):
        done = forward(*args, **told)
        held.append(tuple(done.past_key_values.layers[0].keys.shape[::2]))  # (rows, tokens)
        return done

    monkeypatch.setattr(model, "forward", watched)
    label_likelihoods(model, prompts, LABELS["one and three"], batch_tokens=batch_tokens)
    assert all(rows * tokens <= batch_tokens for rows, tokens in held)
    assert max(rows for rows, _ in held) > 1  # and yet it reads in batches


@pytest.mark.parametrize("part", ["mask", "positions", "order"])
def test_the_equality_can_fail(model, monkeypatch, part):
    prompts, labels = prompts_of([3, 11, 6], [2, 5, 6]), LABELS["shared beginnings"]
    naive = naive_likelihoods(model, prompts, labels)
    if part == "mask":  # labels that see one another
        sees_all = LabelTree.of(labels)
        sees_all.sees.fill_(True)
        monkeypatch.setattr(LabelTree, "of", classmethod(lambda cls, _: sees_all))
    elif part == "positions":  # every label token at the same place
        flat = LabelTree.of(labels)
        flat.depths.fill_(1)
        monkeypatch.setattr(LabelTree, "of", classmethod(lambda cls, _: flat))
    else:  # rows left in the order of their lengths
        real = likelihood.batches
        monkeypatch.setattr(likelihood, "batches", lambda lengths, most: (rows[::-1] for rows in real(lengths, most)))
        monkeypatch.setattr(likelihood, "score_labels", lambda *told: score_labels(*told).flip(0))
    assert (label_likelihoods(model, prompts, labels) - naive).abs().max() > 1e-2


def test_probabilities_of_all_labels_of_a_length_sum_to_one(model):
    every = [[token] for token in range(60)]
    fast = label_likelihoods(model, prompts_of([4, 9], [2]), every)
    torch.testing.assert_close(fast.exp().sum(1), torch.ones(2))


def test_eager_attention_gives_the_same(model):
    prompts, labels = prompts_of([3, 8], [2, 5]), LABELS["one and three"]
    sdpa = label_likelihoods(model, prompts, labels)
    model.set_attn_implementation("eager")
    try:
        torch.testing.assert_close(label_likelihoods(model, prompts, labels), sdpa, atol=1e-4, rtol=0)
    finally:
        model.set_attn_implementation("sdpa")


def test_an_adapter_is_heard(model):
    from peft import LoraConfig, get_peft_model

    prompts, labels = prompts_of([3, 8, 5], [2, 5]), LABELS["shared beginnings"]
    before = naive_likelihoods(model, prompts, labels)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)).eval()
    naive = naive_likelihoods(tuned, prompts, labels)
    assert (naive - before).abs().max() > 1e-2
    torch.testing.assert_close(label_likelihoods(tuned, prompts, labels), naive, atol=1e-4, rtol=0)
    tuned.unload()


def test_the_tree_shares_what_labels_share():
    tree = LabelTree.of([[7, 8], [7, 8, 9], [7, 10], [12]])
    assert tree.tokens.tolist() == [7, 8] and tree.depths.tolist() == [1, 2]
    assert tree.sees.tolist() == [[True, False], [True, True]]
    assert tree.at.tolist() == [[0, 1, 0], [0, 1, 2], [0, 1, 0], [0, 0, 0]]
    assert tree.mask.sum(1).tolist() == [2, 3, 2, 1]
    assert len(LabelTree.of([[7], [9]])) == 0


def test_shared_prefix_leaves_every_row_a_token():
    assert shared_prefix([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3, 9]]) == 2
    assert shared_prefix([[1, 2], [1, 2]]) == 1
    assert shared_prefix([[1], [2]]) == shared_prefix([]) == 0


@pytest.mark.parametrize(
    ("prompts", "labels", "what"),
    [
        ([[2, 3], []], [[7]], r"a prompt has no tokens[\s\S]*prompt 2"),
        ([[2, 3]], [[7], []], "a label has no tokens"),
        ([[2, 3]], [[7], [7]], "two labels have the same tokens"),
        ([[2], [2] * 64], [[7]], r"longer than the model can read[\s\S]*prompt 2[\s\S]*65 tokens"),
        ([[2] * 62], [[7], [7, 8, 9]], r"longer than the model can read[\s\S]*65 tokens"),
    ],
)
def test_what_cannot_be_scored_is_named(model, prompts, labels, what):
    with pytest.raises(InputError, match=what):
        label_likelihoods(model, prompts, labels)


def test_a_prompt_may_fill_the_model_with_its_label(model):
    assert label_likelihoods(model, [[2] * 63, [5] * 63], [[7]]).shape == (2, 1)


def test_an_attention_that_takes_no_mask_is_refused(model, monkeypatch):
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(InputError, match=r"(?s)no mask of our own.*flash_attention_2"):
        label_likelihoods(model, [[2, 3]], [[7]])


def test_the_room_of_a_model_is_the_narrower_of_its_limits():
    for window, room in ((16, 16), (None, 64), (128, 64)):
        config = MistralConfig(max_position_embeddings=64, sliding_window=window)
        assert room_of(SimpleNamespace(config=config)) == room
    assert room_of(SimpleNamespace(config=BloomConfig())) is None  # no limit but memory


def test_batches_hold_rows_of_like_length_and_no_more_tokens_than_they_may():
    assert list(batches([5, 9, 2, 9, 4], 18)) == [[1, 3], [0, 4, 2]]
    assert list(batches([30, 2], 18)) == [[0], [1]]


def test_families_hold_every_row_once():
    premise, other = list(range(20, 40)), list(range(40, 52))
    rows = [[*premise, 1], [*other, 3, 4], [9, 9], [*premise, 2, 3], [*other, 5], [*premise, 2, 4], [9, 8]]
    related, alone = families(rows)
    assert [(sorted(members), common) for members, common in related] == [([0, 3, 5], 20), ([1, 4], 12)]
    assert sorted(alone) == [2, 6]
    assert families([premise, premise]) == ([([0, 1], 19)], [])
    assert families([]) == ([], [])

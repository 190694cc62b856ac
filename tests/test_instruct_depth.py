"""Depth up-scaling, held against a model wired together one layer at a time."""

import copy

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from helpers.course.errors import InputError
from helpers.instruct.sft.depth import depth_up_scaled, up_scaled_order

IDS = torch.tensor([[1, 5, 9, 7, 3, 2], [1, 8, 8, 4, 6, 2]])


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def small(request):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, sliding_window=None, tie_word_embeddings=request.param,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def wired(small, dropped):
    """The reference: the two stacks of layers as modules, put one on the other."""
    model = copy.deepcopy(small)
    first, second = copy.deepcopy(small.model.layers), copy.deepcopy(small.model.layers)
    model.model.layers = torch.nn.ModuleList([*list(first)[: len(first) - dropped], *list(second)[dropped:]])
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = len(model.model.layers)
    return model


def test_solars_own_numbers():
    order = up_scaled_order(32, 8)
    assert len(order) == 48 and order[:24] == list(range(24)) and order[24:] == list(range(8, 32))


@pytest.mark.parametrize("dropped", [1, 2, 4])
def test_equal_to_a_model_wired_by_layers(small, dropped):
    deep, reference = depth_up_scaled(small, dropped), wired(small, dropped)
    assert deep.config.num_hidden_layers == len(deep.model.layers) == 2 * (5 - dropped)
    with torch.no_grad():
        ours, theirs = deep(IDS).logits, reference(IDS).logits
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert not torch.allclose(ours, wired(small, dropped % 4 + 1)(IDS).logits)  # the test can fail
        cached = deep.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
        plain = deep.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(cached, plain)


def test_in_bfloat16_the_rotary_frequencies_stay_exact(small):
    small = small.to(torch.bfloat16)
    small.model.rotary_emb.inv_freq = MistralForCausalLM(small.config).model.rotary_emb.inv_freq
    deep = depth_up_scaled(small, 2)
    assert deep.dtype == torch.bfloat16 and deep.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(deep(IDS).logits, wired(small, 2)(IDS).logits, rtol=0, atol=0)


def test_the_small_model_stays_and_no_layer_is_shared(small):
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    deep = depth_up_scaled(small, 1)
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter += 1
    assert all(torch.equal(weight, before[name]) for name, weight in small.state_dict().items())
    pointers = [weight.data_ptr() for weight in deep.model.layers.parameters()]
    assert len(set(pointers)) == len(pointers)
    tied = deep.lm_head.weight.data_ptr() == deep.model.embed_tokens.weight.data_ptr()
    assert tied == small.config.tie_word_embeddings


def test_it_survives_saving(small, tmp_path):
    deep = depth_up_scaled(small, 2)
    deep.save_pretrained(tmp_path)
    again = MistralForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, deep(IDS).logits)


@pytest.mark.parametrize("dropped", [0, 5, 6, -1])
def test_a_seam_that_does_not_fit_is_refused(small, dropped):
    with pytest.raises(InputError, match="dropped"):
        depth_up_scaled(small, dropped)

"""Grouped attention: the bits of transformers' own, keys and values not copied for each head."""

import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from helpers.serving import grouped_attention as grouped
from helpers.serving.settings import ServingSettings
from helpers.serving.worker import transformers_batch


def small(attention="sdpa"):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=97, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, initializer_range=0.3, attn_implementation=attention,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@torch.inference_mode()
def two_steps(model):
    """Logits of padded prompts and of one token more each, as the server's batch asks for them."""
    ids, mask, cache = torch.arange(1, 19).view(3, 6), torch.ones(3, 6, dtype=torch.long), DynamicCache()
    mask[0, :4] = mask[1, :1] = 0
    read = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    mask = torch.cat([mask, mask[:, -1:]], 1)
    return read, model(input_ids=ids[:, :1], attention_mask=mask, past_key_values=cache, use_cache=True).logits


def test_it_gives_the_same_bits(monkeypatch):
    model = small()
    theirs = two_steps(model)
    grouped.group_heads(model)
    assert model.config._attn_implementation == grouped.NAME
    assert all(map(torch.equal, two_steps(model), theirs))
    real = grouped.scaled_dot_product_attention  # heads that look at another group's keys: the comparison can fail
    monkeypatch.setattr(
        grouped, "scaled_dot_product_attention", lambda q, k, v, **how: real(q, k.flip(1), v.flip(1), **how)
    )
    assert not any(map(torch.equal, two_steps(model), theirs))


def test_keys_and_values_are_not_repeated(monkeypatch):
    seen, real = [], grouped.scaled_dot_product_attention

    def watched(query, key, value, **how):
        seen.append((query.shape[1], key.shape[1], value.shape[1]))
        return real(query, key, value, **how)

    monkeypatch.setattr(grouped, "scaled_dot_product_attention", watched)
    model = small()
    grouped.group_heads(model)
    two_steps(model)
    assert set(seen) == {(8, 2, 2)}


@torch.inference_mode()
def test_without_padding_a_prompt_is_causal_and_a_further_token_sees_all():
    """No padding, no mask: torch is then told what may be seen."""
    model, ids = small(), torch.arange(1, 13).view(2, 6)
    theirs = model(input_ids=ids).logits
    grouped.group_heads(model)
    cache = DynamicCache()
    begun = model(input_ids=ids[:, :5], past_key_values=cache, use_cache=True).logits
    further = model(input_ids=ids[:, 5:], past_key_values=cache, use_cache=True).logits
    assert torch.allclose(torch.cat([begun, further], 1), theirs, atol=1e-5)


def test_biases_for_positions_are_left_to_transformers():
    q, bias = torch.randn(2, 8, 5, 16), torch.randn(1, 8, 5, 5)
    k, v = torch.randn(2, 2, 2, 5, 16)
    layer, mask = small().model.layers[0].self_attn, torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    told = dict(dropout=0.0, scaling=0.25)
    biased = grouped.grouped_attention(layer, q, k, v, mask, position_bias=bias, **told)[0]
    assert torch.equal(biased, sdpa_attention_forward(layer, q, k, v, mask, position_bias=bias, **told)[0])
    assert not torch.allclose(biased, grouped.grouped_attention(layer, q, k, v, mask, **told)[0])


def test_another_attention_stays():
    model = small("eager")
    grouped.group_heads(model)
    assert model.config._attn_implementation == "eager"


def test_the_server_uses_it():
    batch = transformers_batch(ServingSettings.load(tuned=False, dtype="float32"))
    assert batch.model.config._attn_implementation == grouped.NAME

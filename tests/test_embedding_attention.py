"""Attention that is computed again in the backward pass: the numbers of torch's attention, without what it keeps."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding import attention as module
from helpers.embedding.encoding.attention import NAME, RecomputedAttention, attention, use_recomputed_attention
from helpers.embedding.encoding.dropout import keep_mask

MODEL = "sample_data/models/ko-mini-encoder"
SCALE = 0.3


def inputs(texts=5, heads=3, length=7, width=4, dtype=torch.float64):
    torch.manual_seed(13)
    q, k, v = (torch.randn(texts, length, heads, width, dtype=dtype).transpose(1, 2).requires_grad_() for _ in "qkv")
    lengths = torch.tensor([length, 2, length - 1, 1, 3])[:texts]
    allowed = (torch.arange(length) < lengths[:, None])[:, None, None].expand(texts, 1, length, length)
    return q, k, v, allowed


def gradients(output, *leaves):
    torch.manual_seed(14)
    return torch.autograd.grad(output, leaves, torch.randn(output.shape, dtype=output.dtype))


@pytest.mark.parametrize("pairs", [1, 2 * 3 * 7 * 7, 2**18])  # a text at a time, two, all
@pytest.mark.parametrize("masked", [True, False])
def test_without_dropout_it_is_torchs(monkeypatch, pairs, masked):
    monkeypatch.setattr(module, "PAIRS", pairs)
    q, k, v, allowed = inputs()
    allowed = allowed if masked else None
    ours = RecomputedAttention.apply(q, k, v, allowed, SCALE, 0.0)
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=SCALE)
    for mine, other in zip((ours, *gradients(ours, q, k, v)), (theirs, *gradients(theirs, q, k, v)), strict=True):
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_with_dropout_it_is_what_its_definition_says(p):
    """The mask is drawn from the seed that the state of torch gives; autograd differentiates the definition."""
    q, k, v, allowed = inputs()
    state = torch.get_rng_state()
    ours = RecomputedAttention.apply(q, k, v, allowed, SCALE, p)
    torch.set_rng_state(state)
    draws = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
    scores = (q @ k.mT * SCALE).masked_fill(~allowed, -torch.inf)
    kept = keep_mask(scores.shape, p, scores.dtype, draws)
    assert 0 < (kept == 0).double().mean() < 1
    theirs = (scores.softmax(-1) * kept) @ v
    for mine, other in zip((ours, *gradients(ours, q, k, v)), (theirs, *gradients(theirs, q, k, v)), strict=True):
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-14)


def test_masks_differ_by_text_head_call_and_block(monkeypatch):
    monkeypatch.setattr(module, "PAIRS", 1)
    q, k = torch.zeros(2, 4, 2, 40, 8)
    v = torch.randn(1, 1, 40, 8).expand(4, 2, 40, 8)
    first, second = (RecomputedAttention.apply(q, k, v, None, SCALE, 0.5) for _ in range(2))
    outputs = torch.cat([first, second]).flatten(0, 1)
    assert len({tuple(each.flatten().tolist()) for each in outputs}) == len(outputs) == 16


def test_nothing_of_the_size_of_the_pairs_is_kept():
    def kept(attend):
        sizes = []
        with saved_tensors_hooks(
            lambda t: (sizes.append(t.numel() if t.dtype.is_floating_point else 0), t)[1], lambda t: t
        ):
            attend()
        return max(sizes)

    length, width = 64, 4
    q, k, v, _ = inputs(2, 3, length, width, torch.float32)
    assert kept(lambda: RecomputedAttention.apply(q, k, v, None, SCALE, 0.1)) == 2 * 3 * length * width
    definition = lambda: F.dropout((q @ k.mT).softmax(-1), 0.1) @ v  # noqa: E731
    assert kept(definition) == 2 * 3 * length * length  # so the count can tell


@pytest.fixture
def encoder():
    return Encoder.load(MODEL)


TEXTS = ["짧은 문장", "이 문장은 앞의 문장보다 조금 더 길어서 채움이 생긴다"]


def test_an_encoder_trains_by_it_and_encodes_as_before(encoder):
    before = encoder.encode(TEXTS)
    use_recomputed_attention(encoder.model)
    assert (encoder.encode(TEXTS) == before).all()  # without dropout it is torch's
    batch = encoder.pad(encoder.tokenize(TEXTS))
    nodes, found = [encoder.train()(*batch).sum().grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node not in found:
            found.add(node)
            nodes += [n for n, _ in node.next_functions if n]
    names = [node.name() for node in found]
    assert names.count("RecomputedAttentionBackward") == encoder.model.config.num_hidden_layers
    assert not any("ScaledDotProduct" in name for name in names)


def test_the_gradient_of_an_encoder_is_the_one_with_torchs_attention(encoder):
    """Attention's dropout set so low that its sixteen bits never drop, every other dropout off; padding in the batch."""

    def gradient(p):
        encoder.zero_grad()
        for layer in encoder.model.encoder.layer:
            layer.attention.self.dropout.p = p
        encoder(*encoder.pad(encoder.tokenize(TEXTS))).pow(2).sum().backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    encoder.train()
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    theirs = gradient(0.0)
    use_recomputed_attention(encoder.model)
    ours = gradient(1e-9)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
    assert (gradient(0.5) - theirs).norm() / theirs.norm() > 1e-2  # and dropout does something


def test_the_saved_model_knows_nothing_of_it(encoder, tmp_path):
    use_recomputed_attention(encoder.model)
    encoder.save(tmp_path / "model")
    assert NAME not in (tmp_path / "model" / "config.json").read_text()
    assert "attn" not in " ".join(json.loads((tmp_path / "model" / "config.json").read_text()))


def test_other_attention_is_left_alone():
    from transformers import AutoModel

    model = AutoModel.from_pretrained(MODEL, attn_implementation="eager")
    use_recomputed_attention(model)
    assert model.config._attn_implementation == "eager"


class Layer(torch.nn.Module):
    is_causal = True


@pytest.mark.parametrize(
    "kind", ["causal, no mask", "float mask", "fewer keys than queries' heads", "causal mask, one for all"]
)
def test_masks_and_heads_of_every_kind_end_at_torchs_numbers(kind):
    """Dropout so low that nothing is dropped; what the recomputed attention does not know goes to torch's."""
    q, k, v, _ = inputs(dtype=torch.float32)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    mask = None
    if kind == "float mask":
        mask = torch.zeros(1, 1, 7, 7).masked_fill(~causal, -torch.inf)
    elif kind.startswith("fewer"):
        k, v = k[:, :1], v[:, :1]
    elif kind.startswith("causal mask"):
        mask = causal[None, None]
    module_of = Layer()
    module_of.num_key_value_groups = 3 if kind.startswith("fewer") else 1
    ours, _ = attention(module_of, q, k, v, mask, dropout=1e-9)
    repeated = (side.expand(-1, 3, -1, -1) for side in (k, v))
    theirs = F.scaled_dot_product_attention(q, *repeated, attn_mask=causal)
    assert torch.allclose(ours.transpose(1, 2), theirs, atol=1e-6)

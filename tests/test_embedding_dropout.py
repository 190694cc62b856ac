"""Dropout from 16 random bits: the same promises as torch's own."""

import pytest
import torch
from torch import nn

from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.dropout import Dropout16
from helpers.embedding.encoding.fast_dropout import use_fast_dropout

MODEL = "sample_data/models/ko-mini-encoder"


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_many_are_dropped_as_asked_for_and_the_mean_stays(p, dtype):
    torch.manual_seed(13)
    x = torch.ones(1001, 999, dtype=dtype)  # an odd number of elements: not a multiple of four
    y = Dropout16(p)(x)
    assert y.shape == x.shape and y.dtype == dtype
    zero = (y == 0).double()
    assert abs(zero.mean() - p) < 4 * (p * (1 - p) / x.numel()) ** 0.5 + 1e-5
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
    for lag in range(1, 9):  # elements of one draw of 64 bits know nothing of each other
        a, b = zero.flatten()[:-lag], zero.flatten()[lag:]
        assert abs((a * b).mean() - p * p) < 5 * p * (1 - p) / a.numel() ** 0.5


def test_the_gradient_goes_through_what_was_kept():
    x = torch.randn(64, 33, requires_grad=True)
    y = Dropout16(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0) and torch.allclose(x.grad * x, y)


def test_the_same_state_draws_the_same_mask():
    """What the gradient cache and a resumed run rest on."""
    drop, x = Dropout16(0.1), torch.ones(50, 7)
    state = torch.get_rng_state()
    first, second = drop(x), drop(x)
    torch.set_rng_state(state)
    assert torch.equal(drop(x), first) and not torch.equal(first, second)


def test_where_nothing_or_everything_is_dropped():
    x = torch.randn(5, 5)
    assert torch.equal(Dropout16(0.5).eval()(x), x) and torch.equal(Dropout16(0.0)(x), x)
    assert torch.equal(Dropout16(1.0)(x), torch.zeros(5, 5))


def test_every_dropout_of_a_model_is_replaced_the_adapters_too():
    encoder = Encoder.load(MODEL)
    encoder.add_lora(r=4, alpha=8, dropout=0.05)
    names, before = list(encoder.state_dict()), [m.p for m in encoder.modules() if isinstance(m, nn.Dropout)]
    use_fast_dropout(encoder.model)
    found = [m for m in encoder.modules() if isinstance(m, nn.Dropout)]
    assert {type(m) for m in found} == {Dropout16} and [m.p for m in found] == before and {0.05, 0.1} <= set(before)
    assert list(encoder.state_dict()) == names
    assert encoder.encode(["한국어 문장"]).shape == (1, 384)

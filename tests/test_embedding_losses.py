"""The losses against independent references: values, gradients, and what they must refuse."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.embedding.losses import alignment, cosent_loss, info_nce, uniformity


def vectors(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numpy_info_nce(a, candidates, temperature, hidden=()):
    """Written out in float64, one exponential at a time."""
    unit = [row / np.linalg.norm(row) for row in candidates]
    losses = []
    for i, row in enumerate(a):
        row = row / np.linalg.norm(row)
        weights = [0 if (i, j) in hidden else math.exp(row @ c / temperature) for j, c in enumerate(unit)]
        losses.append(-math.log(weights[i] / sum(weights)))
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_info_nce_is_the_formula(temperature):
    a, p, n = vectors(6, 8), vectors(6, 8, seed=1), vectors(6, 2, 8, seed=2)
    expected = numpy_info_nce(a.double().numpy(), torch.cat([p, n.flatten(0, 1)]).double().numpy(), temperature)
    assert info_nce(a, p, n, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_temperature_reaches_the_loss():
    a, p = vectors(6, 8), vectors(6, 8, seed=1)
    assert abs(info_nce(a, p, temperature=0.05) - info_nce(a, p, temperature=0.1)) > 0.1


def test_mask_leaves_candidates_out():
    a, p = vectors(4, 8), vectors(4, 8, seed=1)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 2] = True
    expected = numpy_info_nce(a.double().numpy(), p.double().numpy(), 0.5, hidden={(0, 2)})
    assert info_nce(a, p, temperature=0.5, mask=mask).item() == pytest.approx(expected, rel=1e-5)
    assert info_nce(a, p, temperature=0.5).item() != pytest.approx(expected, rel=1e-3)


def test_a_mask_that_hides_a_positive_is_refused():
    with pytest.raises(ValueError, match="hides a positive"):
        info_nce(vectors(3, 4), vectors(3, 4), temperature=0.05, mask=torch.eye(3, dtype=torch.bool))


def test_symmetric_is_the_mean_of_both_directions():
    a, p = vectors(5, 8), vectors(5, 8, seed=1)
    both = (info_nce(a, p, temperature=0.05) + info_nce(p, a, temperature=0.05)) / 2
    torch.testing.assert_close(info_nce(a, p, temperature=0.05, symmetric=True), both)
    assert abs(info_nce(a, p, temperature=0.05) - both) > 1e-4


def test_gradient_equals_the_library_s_ranking_loss():
    from sentence_transformers.util import cos_sim

    a, p = vectors(6, 8).requires_grad_(), vectors(6, 8, seed=1)
    theirs = F.cross_entropy(cos_sim(a, p) * 20.0, torch.arange(6))
    (expected,) = torch.autograd.grad(theirs, a)
    (ours,) = torch.autograd.grad(info_nce(a, p, temperature=0.05), a)
    torch.testing.assert_close(ours, expected)


def test_cosent_is_the_formula():
    a, b, scores = vectors(5, 8), vectors(5, 8, seed=1), torch.tensor([0.0, 5.0, 2.5, 2.5, 4.0])
    cosine = F.cosine_similarity(a.double(), b.double()).numpy()
    total = 1.0
    for i in range(5):
        for j in range(5):
            if scores[i] > scores[j]:
                total += math.exp((cosine[j] - cosine[i]) / 0.05)
    assert cosent_loss(a, b, scores, 0.05).item() == pytest.approx(math.log(total), rel=1e-5)


def test_cosent_ranks_no_pair_above_one_of_the_same_score():
    assert cosent_loss(vectors(4, 8), vectors(4, 8, seed=1), torch.ones(4), 1.0).item() == 0


def test_cosent_prefers_the_right_order():
    a = F.normalize(vectors(3, 8), dim=1)
    far = torch.roll(a, 1, 0)
    right = cosent_loss(a, torch.stack([a[0], far[1], far[2]]), torch.tensor([5.0, 0.0, 0.0]))
    wrong = cosent_loss(a, torch.stack([a[0], far[1], far[2]]), torch.tensor([0.0, 5.0, 5.0]))
    assert right < wrong


def test_alignment_and_uniformity_at_known_points():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert alignment(x, x).item() == 0
    assert alignment(x, -x).item() == pytest.approx(4)
    assert uniformity(x[[0, 0]]).item() == pytest.approx(0)
    assert uniformity(x).item() == pytest.approx(-4)  # one pair at squared distance 2: exp(-2 * 2)


def test_loss_is_float32_under_autocast():
    a, p = vectors(4, 8), vectors(4, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(a, p, temperature=0.05)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, info_nce(a, p, temperature=0.05), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        info_nce(vectors(3, 4), vectors(3, 4), temperature=temperature)
    with pytest.raises(ValueError, match="temperature"):
        cosent_loss(vectors(3, 4), vectors(3, 4), torch.arange(3), temperature)


def test_a_temperature_that_was_forgotten_is_refused():
    with pytest.raises(ValueError, match="temperature must be given"):
        info_nce(vectors(3, 4), vectors(3, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_float64_stays(dtype):
    a, b, scores = vectors(5, 8).to(dtype), vectors(5, 8, seed=1).to(dtype), torch.arange(5.0)
    for loss in (
        lambda x, y: info_nce(x, y, temperature=0.05),
        lambda x, y: cosent_loss(x, y, scores),
        alignment,
        lambda x, _: uniformity(x),
    ):
        assert loss(a, b).dtype == torch.float32 and loss(a, b) == loss(a.float(), b.float())
        assert loss(a.double(), b.double()).dtype == torch.float64


def test_a_mask_counts_in_both_directions():
    a, p = vectors(4, 8), vectors(4, 8, seed=1)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 2] = True
    x, y = a.double().numpy(), p.double().numpy()
    both = (numpy_info_nce(x, y, 0.5, hidden={(0, 2)}) + numpy_info_nce(y, x, 0.5, hidden={(2, 0)})) / 2
    assert info_nce(a, p, temperature=0.5, mask=mask, symmetric=True).item() == pytest.approx(both, rel=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    a, p = vectors(3, 4), vectors(5, 4, seed=1)
    assert info_nce(a, p, temperature=0.05, first=2).isfinite()  # the last place that fits
    with pytest.raises(ValueError, match="positives 3 to 5 do not fit 5 positives"):
        info_nce(a, p, temperature=0.05, first=3)
    with pytest.raises(ValueError, match="do not fit 5 positives"):
        info_nce(a, p, temperature=0.05, symmetric=True)
    with pytest.raises(ValueError, match="mask has shape"):
        info_nce(a, p, temperature=0.05, mask=torch.zeros(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 2 are needed"):
        uniformity(a[:1])

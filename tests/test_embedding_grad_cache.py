"""The gradient cache against the whole batch: equal where it must be, and each equality is shown able to fail."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.course.errors import InputError
from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.fast_dropout import use_fast_dropout
from helpers.embedding.grad_cache import GradCache
from helpers.embedding.losses import info_nce
from helpers.embedding.replay import GraphBytes

MODEL = "sample_data/models/ko-mini-encoder"
LENGTHS = (3, 12, 5, 5, 9, 1, 7, 2)


class Tiny(nn.Module):
    """Token lists -> vectors through an embedding, dropout, a layer and attention-like mixing: padding would show."""

    def __init__(self, dropout=0.0, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.dropout = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Dropout(dropout)
        self.to(dtype)
        self.calls = []

    def forward(self, texts):
        self.calls.append([tuple(text) for text in texts])
        longest = max(map(len, texts))
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
        mask = torch.tensor([[1.0] * len(text) + [0.0] * (longest - len(text)) for text in texts])[:, :, None]
        hidden = torch.tanh(self.layer(self.dropout(self.words(ids))))
        return (hidden * mask.to(hidden.dtype)).sum(1) / mask.to(hidden.dtype).sum(1)


def texts(seed, count=8):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 50, (LENGTHS[i % len(LENGTHS)],), generator=draw).tolist() for i in range(count)]


SIDES = (texts(1), texts(2), texts(3, 16))  # 8 queries, 8 documents, 2 hard negatives each


def loss_of(queries, documents, negatives=None):
    return info_nce(queries, documents, negatives, temperature=0.1)


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def whole_batch(model, sides=SIDES, loss=loss_of, scale=1.0):
    """(loss, gradient) of the batch in one graph, each side padded as one."""
    model.zero_grad()
    value = loss(*(model(side) for side in sides))
    (value * scale).backward()
    return value.detach(), gradients(model)


def cached(model, sides=SIDES, loss=loss_of, scale=1.0, **options):
    model.zero_grad()
    value = GradCache(model, **{"token_budget": 24, "check_replay": True} | options)(loss, *sides)
    (value * scale).backward()
    return value.detach(), gradients(model)


def relative(given, expected):
    return ((given - expected).norm() / expected.norm()).item()


def test_gradient_is_that_of_the_whole_batch_in_float64():
    model = Tiny()
    value, expected = whole_batch(model)
    ours, gradient = cached(model)
    assert len(model.calls) > 6  # it really went in pieces
    assert relative(gradient, expected) < 1e-10 and abs(ours - value) < 1e-12
    # The same measure sees what accumulation does instead: four batches of two, whose texts never meet.
    model.zero_grad()
    for i in range(0, 8, 2):
        (
            loss_of(model(SIDES[0][i : i + 2]), model(SIDES[1][i : i + 2]), model(SIDES[2][2 * i : 2 * i + 4])) / 4
        ).backward()
    assert relative(gradients(model), expected) > 0.05


@pytest.mark.parametrize("keep_bytes", [0, 1, 20_000, 10**9])
def test_kept_graphs_change_the_work_and_not_the_gradient(keep_bytes):
    model = Tiny(dropout=0.3).train()
    torch.manual_seed(5)
    _, reference = cached(model, keep_bytes=0)
    chunks = len({tuple(call) for call in model.calls})
    model.calls.clear()
    torch.manual_seed(5)
    _, gradient = cached(model, keep_bytes=keep_bytes)
    assert torch.equal(gradient, reference)  # bit for bit, with dropout on
    twice = len(model.calls) - chunks
    one = twice == chunks - 1  # a graph that alone is larger than the memory for graphs is not kept
    assert {0: one, 1: one, 20_000: 0 < twice < chunks - 1, 10**9: twice == 0}[keep_bytes]
    torch.manual_seed(6)
    assert not torch.equal(cached(model, keep_bytes=keep_bytes)[1], reference)  # other dropout, other gradient


def test_the_largest_chunk_is_encoded_last_and_once_and_the_others_are_replayed_from_large_to_small():
    """So that the memory that one chunk frees has room for the next one."""
    model, sides = Tiny(), ([[1] * 40, [2] * 30], [[3] * 30, [4] * 3])
    loss = GradCache(model, token_budget=64)(loss_of, *sides)
    first, model.calls = model.calls, []
    loss.backward()
    assert [[len(text) for text in call] for call in first] == [[40], [3], [30, 30]]
    assert [[len(text) for text in call] for call in model.calls] == [[40], [3]]


def test_dropout_is_replayed_bit_for_bit_and_check_replay_would_tell():
    model = Tiny(dropout=0.5).train()
    torch.manual_seed(1)
    loss = GradCache(model, token_budget=24, check_replay=True)(loss_of, *SIDES)
    before = torch.get_rng_state()
    loss.backward()  # check_replay compares every replayed vector with torch.equal
    assert torch.equal(torch.get_rng_state(), before)  # and what is drawn next is what would have been drawn

    own = torch.Generator().manual_seed(0)

    def noisy(chunk):
        vectors = model(chunk)
        return vectors + torch.randn(vectors.shape, generator=own, dtype=vectors.dtype)

    loss = GradCache(noisy, token_budget=24, check_replay=True)(loss_of, *SIDES)
    with pytest.raises(RuntimeError, match="second pass"):
        loss.backward()


def test_what_is_drawn_between_loss_and_backward_stays_drawn():
    model = Tiny(dropout=0.5).train()
    torch.manual_seed(1)
    loss = GradCache(model, token_budget=24, check_replay=True)(loss_of, *SIDES)
    torch.rand(7)
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_scaling_accumulation_and_two_forwards_before_a_backward():
    model = Tiny()
    _, expected = whole_batch(model)
    assert relative(cached(model, scale=7.0)[1], 7 * expected) < 1e-10
    other = (texts(7), texts(8))
    _, second = whole_batch(model, other)
    assert relative(second, expected) > 0.1
    model.zero_grad()
    cache = GradCache(model, token_budget=24)
    first_loss, second_loss = cache(loss_of, *SIDES), cache(loss_of, *other)
    second_loss.backward()
    (first_loss / 2).backward()
    assert relative(gradients(model), expected / 2 + second) < 1e-10
    with pytest.raises(RuntimeError, match="has run already"):
        first_loss.backward()


def test_equal_texts_are_encoded_once_and_count_everywhere():
    model = Tiny()
    sides = (SIDES[0], [SIDES[0][3], *SIDES[1][1:]], [*SIDES[1][:8], *SIDES[0][:8]])
    _, expected = whole_batch(model, sides)
    model.calls.clear()
    _, gradient = cached(model, sides, keep_bytes=10**9)
    assert relative(gradient, expected) < 1e-10
    assert sum(map(len, model.calls)) == len({tuple(text) for side in sides for text in side}) < 32
    model.calls.clear()
    cached(model, sides, keep_bytes=10**9, unique=False)
    assert sum(map(len, model.calls)) == 32


def test_a_loss_may_come_in_parts():
    def in_parts(queries, documents, negatives):
        candidates = F.normalize(torch.cat([documents, negatives]), dim=-1)
        for i in range(0, len(queries), 3):
            logits = F.normalize(queries[i : i + 3], dim=-1) @ candidates.T / 0.1
            yield F.cross_entropy(logits, torch.arange(i, i + len(logits)), reduction="sum") / len(queries)

    model = Tiny()
    value, expected = whole_batch(model)
    ours, gradient = cached(model, loss=in_parts)
    assert relative(gradient, expected) < 1e-10 and abs(ours - value) < 1e-12


class Learned(nn.Module):
    """A loss with a temperature that is learned, as CLIP's."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, queries, documents, negatives):
        logits = F.normalize(queries, dim=-1) @ F.normalize(torch.cat([documents, negatives]), dim=-1).T
        return F.cross_entropy(logits * self.log_scale.exp(), torch.arange(len(queries)))


def test_parameters_of_the_loss_get_their_gradient_or_are_refused():
    model, loss = Tiny(), Learned()
    whole_batch(model, loss=loss, scale=3.0)
    expected, loss.log_scale.grad = loss.log_scale.grad, None
    cached(model, loss=loss, scale=3.0)
    assert expected.abs() > 1e-3 and relative(loss.log_scale.grad, expected) < 1e-10
    with pytest.raises(ValueError, match="make the loss an"):
        cached(model, loss=lambda *sides: loss(*sides))


def test_without_gradients_it_only_computes():
    model = Tiny()
    with torch.no_grad():
        value = GradCache(model, token_budget=24)(loss_of, *SIDES)
        expected = loss_of(*(model(side) for side in SIDES))
    assert not value.requires_grad and abs(value - expected) < 1e-12


def test_an_encoder_that_loses_texts_is_refused():
    model = Tiny()
    cache = GradCache(lambda chunk: model(chunk)[:1], token_budget=64)  # one row, which would spread over all
    with pytest.raises(ValueError, match="gave 1 vectors for"):
        cache(loss_of, *SIDES)


def test_bad_input_is_named():
    model = Tiny()
    with pytest.raises(InputError, match="12 tokens, token_budget 11"):
        GradCache(model, token_budget=11)(loss_of, *SIDES)
    with pytest.raises(ValueError, match="no text"):
        GradCache(model, token_budget=24)(loss_of, [], [])
    with torch.no_grad():
        model.words.weight[SIDES[1][4][0]] = float("nan")
    with pytest.raises(FloatingPointError, match="side 1 text 4"):
        GradCache(model, token_budget=24)(loss_of, *SIDES)
    with pytest.raises(RuntimeError, match="nothing is trainable"):
        GradCache(Tiny().requires_grad_(False), token_budget=24)(loss_of, *SIDES)


# The course's own encoder: float32, LoRA, autocast, gradient checkpointing.


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load(MODEL, max_length=32).eval()


def encode_with(encoder):
    return lambda chunk: encoder.embed(chunk, token_budget=10**6)


def real_sides(encoder):
    words = ["서울", "바다", "기차", "여권", "도서관", "김치", "회의", "고양이", "커피", "시험", "세금", "공원"]

    def sentence(i, n):
        return " ".join(words[(i * 5 + j * (i + 1)) % 12] for j in range(n))

    queries, documents = [sentence(i, 1 + i % 4) for i in range(8)], [sentence(i + 3, 3 + i) for i in range(8)]
    return encoder.tokenize(queries), encoder.tokenize(documents)


class Model(nn.Module):
    """Lets `whole_batch` and `cached` above drive an Encoder."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, chunk):
        return encode_with(self.encoder)(chunk)


def test_float32_on_the_course_s_encoder(encoder):
    model, sides = Model(encoder), real_sides(encoder)
    _, expected = whole_batch(model, sides)
    _, gradient = cached(model, sides, token_budget=40)
    assert relative(gradient, expected) < 1e-5
    without_last = tuple(side[:-1] for side in sides)
    assert relative(cached(model, without_last, token_budget=40)[1], expected) > 1e-2


def test_float64_on_the_course_s_encoder(encoder):
    model, sides = Model(copy.deepcopy(encoder).double()), real_sides(encoder)
    _, expected = whole_batch(model, sides)
    assert relative(cached(model, sides, token_budget=40)[1], expected) < 1e-10


@pytest.fixture
def lora(encoder):
    adapted = copy.deepcopy(encoder)
    adapted.add_lora(r=4, alpha=8)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(weight, std=0.05)  # away from zero, so that A has a gradient too
    return adapted


def test_lora_gradients(lora):
    model, sides = Model(lora), real_sides(lora)
    _, expected = whole_batch(model, sides)
    assert relative(cached(model, sides, token_budget=40)[1], expected) < 1e-5
    for name, weight in lora.named_parameters():
        assert (weight.grad is not None) == (".lora_" in name)


def test_autocast_is_restored_for_the_replay_and_its_weight_cache_emptied(encoder):
    model, sides = Model(encoder), real_sides(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        value = GradCache(model, token_budget=40, check_replay=True)(loss_of, *sides)
    model.zero_grad()
    value.backward()  # outside autocast, as people do; check_replay would see float32 vectors
    gradient = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss_of(*(model(side) for side in sides))
    model.zero_grad()
    value.backward()
    expected = gradients(model)
    _, exact = whole_batch(model, sides)
    assert gradient.shape == expected.shape  # no weight lost its gradient to a cast that was cached without a graph
    assert 1e-4 < relative(gradient, exact) < 5e-3
    assert relative(expected, exact) > 1e-4


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_computes_layers_again_and_keeps_the_gradient(lora, reentrant):
    model, sides = Model(lora), real_sides(lora)
    _, expected = whole_batch(model, sides)
    forwards = checkpointed(lora, reentrant)
    _, gradient = cached(model, sides, token_budget=40)
    assert relative(gradient, expected) < 1e-5
    again = len(forwards)
    lora.model.gradient_checkpointing_disable()
    forwards.clear()
    cached(model, sides, token_budget=40)
    assert again > len(forwards)  # it was on


def test_checkpointing_that_cuts_the_graph_is_refused(lora):
    """Reentrant, over frozen word vectors, without the hook that makes the layers' input ask for a gradient."""
    forwards = checkpointed(lora, reentrant=True)
    lora.model.disable_input_require_grads()
    with pytest.raises(RuntimeError, match="use_reentrant"):
        cached(Model(lora), real_sides(lora), token_budget=40)
    assert forwards


def checkpointed(lora, reentrant):
    """Checkpointing on, dropout off; a list that grows with every pass through the first layer."""
    lora.train()  # checkpointing is off in eval mode
    for module in lora.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for layer in lora.model.base_model.model.encoder.layer:
        layer.attention.self.dropout.p = 0.0
    lora.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    forwards = []
    first = lora.model.base_model.model.encoder.layer[0].attention
    first.register_forward_pre_hook(lambda *_: forwards.append(1))
    return forwards


def test_the_replay_is_exact_with_the_kernels_that_training_uses(lora):
    """Our dropout and attention draw from torch's generator as well; LoRA's own dropout beside them."""
    lora.train()
    use_fast_dropout(lora.model)
    first, sides = cached(Model(lora), real_sides(lora), token_budget=40), real_sides(lora)  # compares bit for bit
    assert not torch.equal(first[1], cached(Model(lora), sides, token_budget=40)[1])  # other draws, other gradient


def test_a_graph_counts_each_storage_once_and_no_weight():
    linear, data = nn.Linear(4, 4), torch.randn(2, 4, requires_grad=True)
    with GraphBytes() as held:
        hidden = linear(data)  # saves its input, and a view of its weight
        hidden * hidden  # saves one tensor twice
    assert held.total == data.nbytes + hidden.nbytes


def test_a_counted_graph_that_nothing_passes_back_through_is_freed():
    """BERT's pooler: computed, never asked for, and its tanh saves its own output."""
    linear, data = nn.Linear(4, 4), torch.randn(2, 4)
    with GraphBytes() as held:
        unused = torch.tanh(linear(data))
        (linear(data) ** 2).sum().backward()
    assert held.total >= 3 * data.nbytes
    gone = weakref.ref(unused)
    del unused
    gc.collect()
    assert gone() is None


def test_an_empty_side_is_named_and_empty_texts_are_encoded():
    with pytest.raises(ValueError, match="side 1 holds no text"):
        GradCache(Tiny(), token_budget=24)(loss_of, SIDES[0], [])
    layer = nn.Linear(1, 2)
    cache = GradCache(lambda texts: layer(torch.ones(len(texts), 1)), token_budget=24)
    cache(lambda one, two: (one * two).sum(), [[]], [[]]).backward()
    assert layer.weight.grad.abs().sum() > 0

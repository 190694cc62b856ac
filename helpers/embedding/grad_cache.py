"""The gradient cache: the exact gradient of a contrastive batch of any size, in the memory of one chunk.

Gao, Zhang, Han and Callan, arXiv 2101.06983. A contrastive loss needs all representations of a batch at once, but not
all graphs behind them: its gradient reaches a text only through that text's own representation. So, in three steps:

    represent   encode all texts chunk by chunk, without a graph; note the random state before each chunk
    loss        compute the loss on the representations, and its gradient on them (the cache)
    replay      encode each chunk again, now with a graph and from the noted random state, and send its part of the
                cached gradient through it

Three things make it cheaper than the paper's. Texts of all sides are sorted by length into chunks of one token budget,
so little is padding. A text that stands in the batch twice is encoded once. The graph of the chunk that the first step
encodes last, and as many more as fit `keep_bytes`, are kept: those chunks are not encoded twice.

And the memory is that of one chunk in truth, not only by count: chunks go from large to small, so that what one has freed has
room for the next, and freed memory is given back where it grows all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.embedding.batching import plan_chunks
from helpers.embedding.heap import Held, give_back
from helpers.embedding.losses import at_least_float32
from helpers.embedding.replay import GraphBytes, Surroundings, refuse_unknown_leaves, with_gradient

Text = Sequence[int]  # usually the token ids of a text; anything that has a length and an encoder that takes it
Loss = Callable[..., Tensor | Iterator[Tensor]]


class GradCache:
    """`loss = cache(loss_fn, queries, documents, ...)`, then `loss.backward()`: as if the batch had gone in whole.

    encode        list of n texts -> (n, H); called with and without gradients, in the training mode that you have set
    token_budget  tokens a chunk may hold, padding included; sets the peak memory and nothing else
    keep_bytes    memory for graphs kept from the first step, beside the one of the largest chunk: that one is encoded last
                  and replayed first, and the replay needs room for one graph anyway
    unique        encode equal texts once. Turn it off where two passes over one text must differ by dropout (SimCSE)
    no_sync       what DistributedDataParallel calls `model.no_sync`: gradients then travel with the last chunk only
    check_replay  compare each replayed representation with the first one, bit for bit (for tests and lessons)
    """

    def __init__(
        self,
        encode: Callable[[list[Text]], Tensor],
        *,
        token_budget: int,
        keep_bytes: int = 0,
        unique: bool = True,
        no_sync: Callable[[], AbstractContextManager] = nullcontext,
        check_replay: bool = False,
    ) -> None:
        self.encode, self.token_budget, self.keep_bytes = encode, token_budget, keep_bytes
        self.unique, self.no_sync, self.check_replay = unique, no_sync, check_replay

    def __call__(self, loss: Loss, *sides: Sequence[Text]) -> Tensor:
        """The loss of a batch (a scalar); its `backward()` adds the gradients to the encoder's parameters.

        loss   takes one (B, H) tensor in float32 (or float64) per side and returns a scalar, or yields scalars whose sum is
               the loss: each is differentiated and freed before the next, so no (B, M) matrix need exist at once. A loss
               with parameters of its own must be an nn.Module.
        sides  lists of texts, such as B queries, B documents and B * K hard negatives

        Several calls may precede their backward passes, and the loss may be scaled (accumulation, GradScaler).
        """
        texts, places = _distinct(sides, self.unique)
        lengths = [len(text) for text in texts]
        planned = plan_chunks(lengths, self.token_budget, self.token_budget // 32)
        chunks = [_Chunk(rows, len(rows) * lengths[rows[0]]) for rows in planned]
        chunks.sort(
            key=lambda chunk: -chunk.positions
        )  # so that what a chunk frees has room for the next one's tensors
        training = torch.is_grad_enabled()
        vectors = self._represent(texts, chunks, training)  # (U, H)
        _refuse_not_finite(vectors, places)
        places = [place.to(vectors.device) for place in places]
        leaves = [vectors[place].requires_grad_(training) for place in places]  # (B, H) each
        parameters = [p for p in loss.parameters() if p.requires_grad] if isinstance(loss, nn.Module) else []
        value, *gradients = _value_and_gradients(loss, leaves, parameters)
        if not training:
            return value
        cache = torch.zeros_like(vectors)
        for place, gradient in zip(places, gradients, strict=False):
            cache.index_add_(0, place, gradient)  # a text that stands in several places collects from all of them
        replay = _Replay(self, texts, chunks, vectors, cache)
        own = list(zip(parameters, gradients[len(leaves) :], strict=True))
        return _Backward.apply(replay, value, [g for _, g in own], torch.ones((), requires_grad=True), *parameters)

    def _represent(self, texts: list[Text], chunks: list[_Chunk], training: bool) -> Tensor:
        """Vectors (U, H) of all distinct texts, detached, at least float32; fills state and kept graphs of the chunks."""
        vectors, used, per_position = None, 0, 0.0
        for number in (*range(1, len(chunks)), 0):
            chunk = chunks[number]
            if number == 0 and len(chunks) > 1:
                give_back()  # what the chunks before have freed would not fit the first graph
            chunk.state = Surroundings()
            # Several processes sync with the last chunk: DistributedDataParallel listens from that chunk's forward pass on,
            # and would take the backward passes of chunks before it for that chunk's. So it is encoded when its turn comes.
            waits = number > 0 and number == len(chunks) - 1 and self.no_sync is not nullcontext
            try_to_keep = (
                training and not waits and (number == 0 or used + per_position * chunk.positions < self.keep_bytes)
            )
            with ExitStack() as stack:
                if try_to_keep:
                    counter = stack.enter_context(GraphBytes())
                    if number < len(chunks) - 1:
                        stack.enter_context(self.no_sync())
                else:
                    stack.enter_context(torch.no_grad())
                encoded = self.encode([texts[i] for i in chunk.rows])
            if try_to_keep:
                per_position = counter.total / max(1, chunk.positions)
                if number == 0 or used + counter.total <= self.keep_bytes:
                    used, chunk.graph = used + counter.total, with_gradient(encoded)
            else:
                torch.clear_autocast_cache()  # weights cast under no_grad have no graph: the replay must not find them
            if len(encoded) != len(chunk.rows):  # a single row would spread over all
                raise ValueError(f"the encoder gave {len(encoded)} vectors for {len(chunk.rows)} texts")
            encoded = at_least_float32(encoded.detach())
            if vectors is None:  # only now is H known
                vectors = encoded.new_empty(len(texts), *encoded.shape[1:])
            vectors[chunk.rows] = encoded
        return vectors


@dataclass
class _Chunk:
    """Numbers of the texts that go through the encoder together, and what is remembered of their first pass."""

    rows: list[int]
    positions: int  # tokens and padding
    state: Surroundings | None = None
    graph: Tensor | None = None


@dataclass
class _Replay:
    """The third step, ready to run once: distinct texts, their chunks, vectors and cached gradients, (U, H) each."""

    owner: GradCache
    texts: list[Text]
    chunks: list[_Chunk]
    vectors: Tensor
    cache: Tensor

    def run(self, scale: Tensor) -> None:
        """Send `scale` times the cached gradient through the encoder; the largest chunk and other kept graphs come first."""
        if not self.chunks:
            raise RuntimeError("backward() of this loss has run already: its graphs are gone; call the cache again")
        chunks, self.chunks, held = self.chunks, [], Held()
        for number, chunk in enumerate(chunks):
            last = number == len(chunks) - 1
            with nullcontext() if last else self.owner.no_sync():
                vectors = self._encoded(chunk) if chunk.graph is None else chunk.graph
                gradient = (self.cache[chunk.rows] * scale).to(vectors.dtype)
                torch.autograd.backward(vectors, gradient)
            chunk.graph = vectors = None
            held.settle()

    def _encoded(self, chunk: _Chunk) -> Tensor:
        with torch.enable_grad(), chunk.state.restored():
            vectors = with_gradient(self.owner.encode([self.texts[i] for i in chunk.rows]))
        if self.owner.check_replay and not torch.equal(
            vectors.detach().to(self.vectors.dtype), self.vectors[chunk.rows]
        ):
            raise RuntimeError(
                "the encoder gave other vectors in the second pass than in the first: it draws from a random generator "
                "that torch does not know, or a state of it changed in between (the gradient would be wrong)"
            )
        return vectors


class _Backward(torch.autograd.Function):
    """Puts the replay where autograd expects it: into the backward pass of the loss value."""

    @staticmethod
    def forward(ctx, replay, value, own_gradients, _anchor, *parameters):
        ctx.replay, ctx.own = replay, own_gradients
        return value.clone()

    @staticmethod
    def backward(ctx, scale):
        with torch.enable_grad():
            ctx.replay.run(scale)
        return None, None, None, None, *(gradient * scale for gradient in ctx.own)


def _distinct(sides: Sequence[Sequence[Text]], unique: bool) -> tuple[list[Text], list[Tensor]]:
    """The texts to encode, and for each side (B,) the number of each text among them."""
    texts: list[Text] = []
    seen: dict[Hashable, int] = {}
    places = []
    for number, side in enumerate(sides):
        if not side:
            raise ValueError(f"side {number} holds no text: leave the side out, or give it one")
        numbers = []
        for text in side:
            key = tuple(text) if unique else len(texts)
            if key not in seen:
                seen[key] = len(texts)
                texts.append(text)
            numbers.append(seen[key])
        places.append(torch.tensor(numbers))
    if not texts:
        raise ValueError("there is no text to encode")
    return texts, places


def _value_and_gradients(loss: Loss, leaves: list[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """The loss value (detached), then its gradient on each leaf and each own parameter of the loss."""
    sources = [*leaves, *parameters]
    given = loss(*leaves)
    value: Tensor | None = None
    gradients = [torch.zeros_like(source) for source in sources]
    for part in [given] if isinstance(given, Tensor) else given:
        if part.requires_grad:
            refuse_unknown_leaves(part, sources)
            for total, gradient in zip(
                gradients, torch.autograd.grad(part, sources, retain_graph=True, allow_unused=True), strict=True
            ):
                if gradient is not None:
                    total += gradient
        value = part.detach() if value is None else value + part.detach()
        del part  # its graph must be gone before the next part is computed
    return [value, *gradients]


def _refuse_not_finite(vectors: Tensor, places: list[Tensor]) -> None:
    bad = ~torch.isfinite(vectors).all(-1).cpu()  # (U,)
    if bad.any():
        where = [
            f"side {s} text {i}" for s, place in enumerate(places) for i in bad[place].nonzero().flatten().tolist()
        ]
        raise FloatingPointError(f"{int(bad.sum())} representations hold NaN or infinity: {', '.join(where[:5])}")

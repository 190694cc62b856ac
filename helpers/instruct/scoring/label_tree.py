"""Label words as a tree of token ids: what they share is computed once, and every label is scored in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.course.errors import InputError


@dataclass(frozen=True)
class LabelTree:
    """The tree of some labels; node 0 is the last token of the prompt, the others are label tokens that are read.

    A label of n tokens is predicted at n nodes: its first token at node 0, each further one at the node of the token
    before. Its last token is never read, only predicted, so labels of one token need no node of their own.

    ``tokens`` (N,): ids of nodes 1 to N; ``depths`` (N,): 1 for the first token of a label; ``sees`` (N, N) bool: node i
    may attend to node j (its ancestors and itself); ``at`` and ``predicts`` (L, T): for each label the nodes at which it is
    predicted and the token predicted there, filled up with 0; ``mask`` (L, T) bool: what is not filling.
    """

    tokens: Tensor
    depths: Tensor
    sees: Tensor
    at: Tensor
    predicts: Tensor
    mask: Tensor

    @classmethod
    def of(cls, labels: Sequence[Sequence[int]]) -> LabelTree:
        """The tree of L labels, each a list of token ids. Raises :class:`InputError` for an empty or a double label."""
        paths = [tuple(label) for label in labels]
        if not paths or not all(paths):
            raise InputError("a label has no tokens", place="labels", given=[list(path) for path in paths])
        if len(set(paths)) < len(paths):
            raise InputError("two labels have the same tokens", place="labels", given=[list(path) for path in paths])
        nodes = {(): 0}
        for path in paths:
            for end in range(1, len(path)):
                nodes.setdefault(path[:end], len(nodes))
        read = [path for path in nodes if path]
        sees = torch.tensor([[a[: len(b)] == b for b in read] for a in read], dtype=torch.bool)
        longest = max(map(len, paths))
        at = torch.zeros(len(paths), longest, dtype=torch.long)
        predicts, mask = at.clone(), torch.zeros(len(paths), longest, dtype=torch.bool)
        for row, path in enumerate(paths):
            at[row, : len(path)] = torch.tensor([nodes[path[:end]] for end in range(len(path))])
            predicts[row, : len(path)] = torch.tensor(path)
            mask[row, : len(path)] = True
        return cls(
            tokens=torch.tensor([path[-1] for path in read], dtype=torch.long),
            depths=torch.tensor([len(path) for path in read], dtype=torch.long),
            sees=sees.reshape(len(read), len(read)),
            at=at,
            predicts=predicts,
            mask=mask,
        )

    def __len__(self) -> int:
        """How many label tokens are read (N)."""
        return len(self.tokens)

    def to(self, device: torch.device) -> LabelTree:
        """The same tree on another device."""
        return LabelTree(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

"""The export gate: an export counts only if it says what the adapter model says, token for token, within a tolerance.

Held against one another: token ids of the same questions, greedy answers, and the log-probability of every token of longer
texts that the adapter model writes where it may not stop. Before it admits anything, the gate proves that it can refuse: the
base model without the adapter must fail it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf, isnan
from statistics import fmean
from typing import TYPE_CHECKING, Protocol, Self

from helpers.course.errors import InputError
from helpers.instruct.generation import LocalModel
from helpers.instruct.prompts import Prompt

if TYPE_CHECKING:
    from peft import PeftModel

Question = tuple[str, str]
"""Instruction and input."""
BLIND = 5.0
"""The base model must be off by at least so many tolerances, or the probes cannot tell a merged adapter from a lost one."""


class Candidate(Protocol):
    """What the gate asks of an export: a model of transformers or an engine."""

    prompt: Prompt

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations, each up to and with its stop token."""

    def log_probs(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token of each continuation, in nats."""


@dataclass(frozen=True)
class Agreement:
    """How far an export is from the adapter model on the probes.

    ``equal_ids``: share of questions with the same token ids. ``equal_answers``: share of greedy continuations that are the
    same; ``ties``: share that parts at a token where the reference itself hardly preferred one (a lead below twice the
    tolerance). ``difference``: the largest difference of a log-probability, in nats, ``where`` it is; ``mean`` of all.
    """

    equal_ids: float
    equal_answers: float
    ties: float
    difference: float
    mean: float
    where: str

    def reasons(self, tolerance: float) -> list[str]:
        """Why this is refused; nothing where it is admitted."""
        reasons = []
        if self.equal_ids < 1:
            reasons.append(f"other token ids for {1 - self.equal_ids:.0%} of the questions")
        if self.difference > tolerance:
            reasons.append(f"log-probabilities differ by up to {self.difference:.3g} nats ({self.where})")
        if self.equal_answers + self.ties < 1 - 1e-9:
            reasons.append(f"other greedy answers to {1 - self.equal_answers - self.ties:.0%} of the questions")
        return reasons


@dataclass(frozen=True)
class ExportGate:
    """What the reference says to the probes; ``base``: how far the model without the adapter is from that.

    ``answers``: greedy, up to a stop token, ``margins`` by how many nats each token of them led. ``texts``: greedy too, but not
    allowed to stop before ``max_new_tokens``, so that short answers leave enough to compare; ``log_probs`` of their tokens.
    """

    questions: list[Question]
    prompts: list[list[int]]
    answers: list[list[int]]
    margins: list[list[float]]
    texts: list[list[int]]
    log_probs: list[list[float]]
    vocabulary: dict[str, int]
    tolerance: float
    max_new_tokens: int
    base: Agreement | None = None

    @classmethod
    def of(
        cls,
        adapted: PeftModel,
        prompt: Prompt,
        questions: Sequence[Question],
        *,
        tolerance: float,
        max_new_tokens: int = 24,
    ) -> Self:
        """Ask the adapter model all questions, and its base too, adapter switched off.

        ``tolerance``: nats. Raises :class:`InputError` where the base itself would (nearly) be admitted: then the probes are
        too few, or the adapter does nothing, and no export could be told from a broken one.
        """
        model = LocalModel(adapted, prompt)
        gate = cls.against(model, questions, tolerance=tolerance, max_new_tokens=max_new_tokens)
        with adapted.disable_adapter():
            base = gate.compare(model)
        if base.difference < BLIND * tolerance:
            raise InputError(
                "the gate cannot tell this adapter from none: it would admit an export that lost it",
                place="questions",
                given=f"the base model differs by {base.difference:.3g} nats",
                allowed=f"at least {BLIND * tolerance:.3g}",
                hint="ask questions of the kind that the adapter was trained on, or lower the tolerance",
            )
        return replace(gate, base=base)

    @classmethod
    def against(
        cls, model: LocalModel, questions: Sequence[Question], *, tolerance: float, max_new_tokens: int = 24
    ) -> Self:
        """A gate with any model of transformers as its reference; nothing proves that it can refuse."""
        prompts = [model.prompt.prompt_ids(*question) for question in questions]
        answers = model.generate(prompts, max_new_tokens)
        texts = model.generate(prompts, max_new_tokens, min_new_tokens=max_new_tokens)
        return cls(
            questions=list(questions),
            prompts=prompts,
            answers=answers,
            margins=model.margins(prompts, answers),
            texts=texts,
            log_probs=model.log_probs(prompts, texts),
            vocabulary=model.prompt.tokenizer.get_vocab(),
            tolerance=tolerance,
            max_new_tokens=max_new_tokens,
        )

    def compare(self, candidate: Candidate) -> Agreement:
        """How far a candidate is from the reference, without a judgement."""
        theirs = [candidate.prompt.prompt_ids(*question) for question in self.questions]
        same = sum(a == b for a, b in zip(theirs, self.prompts, strict=True)) / len(self.prompts)
        if candidate.prompt.tokenizer.get_vocab() != self.vocabulary:
            same = min(same, 1 - 1 / len(self.prompts))  # another vocabulary, though the probes do not touch it
        answers = candidate.generate(self.prompts, self.max_new_tokens)
        scores = candidate.log_probs(self.prompts, self.texts)
        pairs = zip(scores, self.log_probs, strict=True)
        off = [[_apart(a, b) for a, b in zip(row, ours, strict=True)] for row, ours in pairs]
        worst = max(range(len(off)), key=lambda number: max(off[number]))
        equal = [a == b for a, b in zip(answers, self.answers, strict=True)]
        ties = [self._tie(number, answer) for number, answer in enumerate(answers) if not equal[number]]
        return Agreement(
            equal_ids=same,
            equal_answers=sum(equal) / len(equal),
            ties=sum(ties) / len(equal),
            difference=max(off[worst]),
            mean=fmean(chain.from_iterable(off)),
            where=f"probe {worst + 1} of {len(off)}",
        )

    def admit(self, name: str, candidate: Candidate) -> Agreement:
        """The agreement of an export that passes. Raises :class:`InputError` with every reason where it does not."""
        agreement = self.compare(candidate)
        self.judge(name, agreement)
        return agreement

    def judge(self, name: str, agreement: Agreement) -> None:
        """Nothing where this agreement is enough, else :class:`InputError` with every reason."""
        if reasons := agreement.reasons(self.tolerance):
            raise InputError(
                f"this export does not say what the adapter model says: {name}",
                place=f"{len(self.questions)} probes",
                given="; ".join(reasons),
                allowed=f"equal ids, differences up to {self.tolerance:g} nats, other answers only where two tokens tie",
                hint="the model without the adapter would be off by "
                f"{self.base.difference:.3g} nats: a difference of that size means that the adapter is missing"
                if self.base
                else None,
            )

    def _tie(self, number: int, answer: Sequence[int]) -> bool:
        """Whether an answer parts from the reference where two tokens are so close that both may be off and swap them."""
        ours = self.answers[number]
        place = next((i for i, (a, b) in enumerate(zip(ours, answer, strict=False)) if a != b), None)
        return place is not None and self.margins[number][place] < 2 * self.tolerance


def _apart(a: float, b: float) -> float:
    """The distance of two log-probabilities, in nats; NaN is no agreement."""
    return inf if isnan(a - b) else abs(a - b)

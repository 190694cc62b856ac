"""What crosses the border between the server and its engine: jobs one way, tokens the other, ids in both."""

from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; names and meaning as in OpenAI's API and vLLM. Temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    @property
    def penalized(self) -> bool:
        """Whether a draw depends on what stands in the prompt or was written before."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Job:
    """One answer to generate: token ids in, at most ``max_tokens`` out, ended by any of ``stop_ids``."""

    id: int
    ids: tuple[int, ...]
    max_tokens: int
    stop_ids: tuple[int, ...]
    adapter: str | None = None
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Tokens:
    """New tokens of one job. ``finish``: None while it goes on, ``stop`` at a stop token (which is among them)."""

    job: int
    ids: tuple[int, ...]
    finish: Finish | None = None


@dataclass(frozen=True)
class Refused:
    """A job that the engine cannot take, and why."""

    job: int
    why: str


@dataclass(frozen=True)
class Unfinished:
    """A job that the engine took and could not bring to its end, by no fault of the job's, and why."""

    job: int
    why: str


class Batch(Protocol):
    """An engine as the worker sees it: many jobs at once, one step at a time."""

    def add(self, job: Job) -> None:
        """Take a job. ValueError: it cannot be done."""

    def stop(self, job: int) -> None:
        """Forget a job; one that is already done is no error."""

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""

    def step(self) -> list[Tokens | Unfinished]:
        """Go on by one step and say what came of it."""

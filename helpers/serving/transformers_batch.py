"""Continuous batching over a transformers model: answers join and leave the batch at every step.

`generate` on a batch ends when its longest answer ends, and whoever comes later waits for all of them. Here the batch is a
cache of keys and values, padded on the left, to which new prompts are joined and from which finished answers are taken out
(iteration-level scheduling: Orca, OSDI 2022). vLLM does the same with a paged cache and without padding.
"""

import random
from collections import deque
from dataclasses import dataclass, replace

import torch
from transformers import DynamicCache, PreTrainedModel

from helpers.serving.cache import join, keep
from helpers.serving.jobs import Job, Tokens
from helpers.serving.sampling import Sampler, draw_all

PREFILL_TOKENS = 4096
"""Prompts that are read together hold at most so many tokens, padding included: a bound on memory and on the wait."""
BASE = "__base__"
"""What peft calls the model without any adapter."""


@dataclass
class Row:
    """One answer that is being written: its last token, and how many it has."""

    job: Job
    sampler: Sampler
    last: int = -1
    written: int = 0

    def take(self, token: int) -> Tokens:
        """The next token, and whether it is the last."""
        self.last, self.written = token, self.written + 1
        finish = "stop" if token in self.job.stop_ids else "length" if self.written == self.job.max_tokens else None
        return Tokens(self.job.id, (token,), finish)


class TransformersBatch:
    """Jobs over one model in evaluation mode; ``size`` of them at once, the others wait in order of arrival.

    ``adapters``: what jobs call an adapter -> what peft calls it. ``seed``: of the draws of jobs without a seed of their
    own: another batch that gets the same jobs in the same order gives the same answers.
    """

    def __init__(
        self, model: PreTrainedModel, size: int, pad_id: int, *, adapters: dict[str, str] | None = None, seed: int = 0
    ) -> None:
        self.model, self.size, self.pad_id = model, size, pad_id
        self.mixed, self.adapters = hasattr(model, "peft_config"), adapters or {}
        self._seeds = random.Random(seed)
        self.waiting: deque[Job] = deque()
        self.rows: list[Row] = []
        self.cache: DynamicCache | None = None
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=model.device)  # (B, L): 1 on tokens, 0 on padding

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.rows)

    def add(self, job: Job) -> None:
        if job.adapter is not None and job.adapter not in self.adapters:
            raise ValueError(f"there is no adapter {job.adapter}")
        if not job.ids:
            raise ValueError("the prompt is empty")
        if job.sampling.seed is None:
            job = replace(job, sampling=replace(job.sampling, seed=self._seeds.getrandbits(63)))
        self.waiting.append(job)

    def stop(self, job: int) -> None:
        self.waiting = deque(other for other in self.waiting if other.id != job)
        self._keep([n for n, row in enumerate(self.rows) if row.job.id != job])

    @torch.inference_mode()
    def step(self) -> list[Tokens]:
        """Read new prompts where there is room, else write one token of every answer."""
        fresh = self._next_prompts()
        if not fresh and not self.rows:
            return []
        logits = self._read(fresh) if fresh else self._write()
        rows = self.rows[len(self.rows) - len(logits) :]
        drawn = draw_all(logits, [row.sampler for row in rows])
        tokens = [row.take(token) for row, token in zip(rows, drawn, strict=True)]
        ended = {token.job for token in tokens if token.finish}
        self._keep([n for n, row in enumerate(self.rows) if row.job.id not in ended])
        return tokens

    def _next_prompts(self) -> list[Job]:
        fresh: list[Job] = []
        while self.waiting and len(self.rows) + len(fresh) < self.size:
            longest = max(len(job.ids) for job in [*fresh, self.waiting[0]])
            if fresh and longest * (len(fresh) + 1) > PREFILL_TOKENS:
                break
            fresh.append(self.waiting.popleft())
        return fresh

    def _read(self, jobs: list[Job]) -> torch.Tensor:
        """Read prompts and join them to the batch. Returns the logits after each, (len(jobs), V)."""
        length = max(len(job.ids) for job in jobs)
        padded = [[self.pad_id] * (length - len(job.ids)) + list(job.ids) for job in jobs]
        ids = torch.tensor(padded, device=self.model.device)
        lengths = torch.tensor([[len(job.ids)] for job in jobs], device=self.model.device)
        mask = (torch.arange(length, device=self.model.device) >= length - lengths).long()
        cache = DynamicCache()
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache, jobs)
        vocabulary = logits.shape[1]
        self.rows += [Row(job, Sampler(job.sampling, job.ids, vocabulary, logits.device)) for job in jobs]
        if self.cache is None:
            self.cache, self.mask = cache, mask
        else:
            join(self.cache, cache)
            width = max(self.mask.shape[1], length)
            grown = [torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)]
            self.mask = torch.cat(grown)
        return logits

    def _write(self) -> torch.Tensor:
        """One more token of every answer: the logits (B, V)."""
        ids = torch.tensor([[row.last] for row in self.rows], device=self.model.device)
        positions = self.mask.sum(1, keepdim=True)  # (B, 1)
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        return self._forward(ids, self.mask, positions, self.cache, [row.job for row in self.rows])

    def _forward(self, ids, mask, positions, cache, jobs: list[Job]) -> torch.Tensor:
        names = [self.adapters.get(job.adapter, BASE) for job in jobs]
        chosen = {"adapter_names": names} if self.mixed else {}
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1, **chosen,
        )  # fmt: skip
        return output.logits[:, -1]

    def _keep(self, rows: list[int]) -> None:
        """Keep these rows; columns that are padding in all that are left go too."""
        if len(rows) == len(self.rows):
            return
        self.rows = [self.rows[n] for n in rows]
        if not rows:
            self.cache, self.mask = None, self.mask[:0, :0]
            return
        chosen = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[chosen]
        skip = int(mask.any(0).long().argmax())
        keep(self.cache, chosen, skip)
        self.mask = mask[:, skip:]

"""One prompt object: the template, BOS, EOS, PAD and the stop rule, defined once and saved with the model.

Training, generation, vLLM and the server take token ids from it; no one else types a template. Prompt and answer are
tokenised apart, so the prompt has the same ids whatever answer follows it: a merge across the border cannot happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from helpers.course.errors import InputError
from helpers.instruct.prompting.conversations import ROLES, clean, joined, turns_of
from helpers.instruct.prompting.prompt_file import PROMPT_FILE, read_prompt_file, write_prompt_file
from helpers.instruct.prompting.special_tokens import bos_id, need_eos, pad_id, rendered, special_tokens, turn_end

if TYPE_CHECKING:  # transformers takes seconds to import, and Unsloth wants to come before it
    from transformers import PreTrainedTokenizerBase

__all__ = ["IGNORED", "PROMPT_FILE", "SEED_TURN", "TEMPLATES", "Example", "Prompt"]

SEED_TURN = "###입력:{}\n\n###출력:"
"""One question in the form of the seeds; the answer follows, then EOS."""
TEMPLATES = ("seed", "chat")
IGNORED = -100
"""The label of a position that is read but not learned (torch's cross entropy leaves it out)."""
PROBE = "안녕하세요? 1번 질문입니다.\n한 줄 더."


@dataclass(frozen=True)
class Example:
    """One training row: ``input_ids`` and ``labels``, equally long; a label is its id, or IGNORED on the prompt."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """How many positions are learned: the answer's tokens and its EOS."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True)
class Prompt:
    """How text becomes token ids for one tokenizer. Make it with :meth:`for_tokenizer` or :meth:`load`.

    ``stop_ids[0]`` ends every trained answer: EOS, or the token with which the chat template ends a turn.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Literal["seed", "chat"]
    system: str
    bos_id: int | None
    eos_id: int
    pad_id: int
    stop_ids: tuple[int, ...]

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, template: str = "seed", system: str = "") -> Self:
        """The prompt of a tokenizer: ``seed`` is ``###입력:…\\n\\n###출력:``, ``chat`` the tokenizer's own chat template.

        ``system`` goes before every question. PAD is never EOS: where the tokenizer has no PAD of its own, a token that
        no text needs takes its place, and ``tokenizer.pad_token`` is set to it. Raises :class:`InputError` for an
        unknown template, a tokenizer without EOS or chat template, and where no token can be PAD.
        """
        if template not in TEMPLATES:
            raise InputError(
                "there is no such prompt template", place="template", given=template, allowed=list(TEMPLATES)
            )
        if template == "chat" and not tokenizer.chat_template:
            raise InputError(
                "this tokenizer has no chat template",
                place="template",
                given="chat",
                allowed=["seed"],
                hint="base models have none; take `seed`, or an instruct model's tokenizer",
            )
        eos = need_eos(tokenizer)
        end = turn_end(tokenizer) if template == "chat" else None
        return cls(
            tokenizer=tokenizer,
            template=template,
            system=clean(system),
            bos_id=bos_id(tokenizer),
            eos_id=eos,
            pad_id=pad_id(tokenizer),
            stop_ids=(eos,) if end in (None, eos) else (end, eos),
        )

    def prompt_ids(self, instruction: str, input: str = "", system: str | None = None) -> list[int]:
        """The ids of one question, BOS once in front; the list ends exactly where the answer begins.

        ``input`` is the text that the instruction speaks of. ``system`` replaces the prompt's own (``""``: none).
        Outer white space is dropped and text is brought to NFC, so two spellings that look alike have equal ids.
        """
        messages = [{"role": "user", "content": joined(instruction, input)}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return self.message_ids(messages)

    def message_ids(self, messages: Iterable[Mapping[str, Any]]) -> list[int]:
        """The ids of a conversation, ``[{"role": ..., "content": ...}, ...]``, that ends with a question.

        One user message gives the ids of :meth:`prompt_ids`. A system message, first where there is one, replaces the
        prompt's own. Raises :class:`InputError` for anything else than user and assistant in turns, user last,
        for an empty question, and for what the chat template refuses.
        """
        named, turns = turns_of(list(messages))
        system = self.system if named is None else named
        return self._chat_ids(system, turns) if self.template == "chat" else self._seed_ids(system, turns)

    def example(self, instruction: str, output: str, input: str = "", system: str | None = None) -> Example:
        """A training row: the prompt's labels are IGNORED, the answer's are its ids, the last one is EOS."""
        if not clean(output):
            raise InputError("the answer of this example is empty", place="output", given=output)
        prompt = self.prompt_ids(instruction, input, system)
        answer = [*self._plain_ids(clean(output)), self.stop_ids[0]]
        return Example(prompt + answer, [IGNORED] * len(prompt) + answer)

    def answer_text(self, ids: Iterable[int]) -> str:
        """The text of generated ids (without the prompt's), cut at the first stop token, PAD left out, ends stripped."""
        return self.raw_answer_text(ids).strip()

    def raw_answer_text(self, ids: Iterable[int]) -> str:
        """The same with the white space at its ends, for whoever puts a text together from parts."""
        kept: list[int] = []
        for token in map(int, ids):
            if token in self.stop_ids:
                break
            kept.append(token)
        return self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def spelled(self, answer: str) -> str:
        """The answer as its training ids spell it behind the prompt's: SentencePiece writes a space before a first word.

        For engines that allow tokens by their text (structured outputs): held to the bare word, a model must begin with a
        token that no training answer began with, and what it prefers then says little.
        """
        question = self.prompt_ids("?")
        both = self.tokenizer.decode([*question, *self._plain_ids(clean(answer))], clean_up_tokenization_spaces=False)
        return both[len(self.tokenizer.decode(question, clean_up_tokenization_spaces=False)) :]

    def ended(self, ids: Iterable[int]) -> bool:
        """Whether generated ids hold a stop token: the answer ended by itself, not at the limit of length."""
        return any(int(token) in self.stop_ids for token in ids)

    def save(self, folder: str | Path) -> Path:
        """Write ``prompt.json`` beside an adapter or a merged model; the tokenizer's own files are not written."""
        return write_prompt_file(folder, self._facts() | {"system": self.system})

    @classmethod
    def load(cls, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Self:
        """The prompt that :meth:`save` left in ``folder``, for the tokenizer saved there or for the one given.

        Raises :class:`InputError` where the file is missing or altered, or where the tokenizer gives other ids than
        the one that the model was trained with.
        """
        facts = read_prompt_file(folder)
        if tokenizer is None:
            from helpers.instruct.models import load_tokenizer  # loads torch

            tokenizer = load_tokenizer(str(folder))
        prompt = cls.for_tokenizer(tokenizer, facts["template"], facts["system"])
        for name, value in prompt._facts().items():
            if facts[name] != value:
                raise InputError(
                    "this tokenizer does not fit the prompt that the model was trained with",
                    file=Path(folder).name + "/" + PROMPT_FILE,
                    place=f"key {name}",
                    given=value,
                    allowed=repr(facts[name]),
                    hint="take the tokenizer that lies beside the model",
                )
        return prompt

    def _facts(self) -> dict[str, Any]:
        """What must be equal in training and in use, the ids of a sample sentence included."""
        return {
            "template": self.template,
            "turn": SEED_TURN if self.template == "seed" else self.tokenizer.chat_template,
            "bos_id": self.bos_id,
            "eos_id": self.eos_id,
            "pad_id": self.pad_id,
            "stop_ids": list(self.stop_ids),
            "probe": self.example(PROBE, PROBE, system="").input_ids,
        }

    def _seed_ids(self, system: str, turns: list[str]) -> list[int]:
        ids = [] if self.bos_id is None else [self.bos_id]
        for number, text in enumerate(turns):
            if number % 2:
                ids += [*self._plain_ids(text), self.stop_ids[0]]
            else:
                ids += self._plain_ids(SEED_TURN.format(joined(system if number == 0 else "", text)))
        return ids

    def _chat_ids(self, system: str, turns: list[str]) -> list[int]:
        for token in special_tokens(self.tokenizer).values():
            if any(token in text for text in (system, *turns)):
                raise InputError(
                    "this text holds one of the model's special tokens: it could end its own turn",
                    place="messages",
                    given=token,
                    hint="take the token out of the text",
                )
        messages = [{"role": ROLES[1 + number % 2], "content": text} for number, text in enumerate(turns)]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        text = rendered(self.tokenizer, messages, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if self.bos_id is not None and ids[:1] != [self.bos_id]:  # some templates write BOS themselves, some do not
            ids = [self.bos_id, *ids]
        return ids

    def _plain_ids(self, text: str) -> list[int]:
        """Ids of text as text: a ``</s>`` that someone typed is four characters, not the end of the answer."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

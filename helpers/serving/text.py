"""The text of an answer while its tokens come in: sent as soon as it is certain.

What could still be half a character or the beginning of a stop text is held back. One thing is not: a tokenizer with
byte tokens decodes a run of them together, so a later byte that is no UTF-8 turns characters before it into U+FFFD, also
those that were sent.
"""

from collections.abc import Iterable, Sequence

from helpers.instruct.prompts import Prompt

UNFINISHED = "\ufffd"
"""What decoding gives for the first bytes of a character whose last bytes have not come yet."""


WINDOW, KEPT = 32, 8
"""More tokens than WINDOW are not decoded anew with each new one (but where a character is unfinished); the last KEPT stay when
the others are settled. Without this an answer of n tokens would cost n squared. No character is longer than KEPT tokens."""


class AnswerText:
    """Feed tokens, get new text. Ends at the first of ``stops`` (texts), which is cut off.

    ``continued``: the ids of a text that is continued as it stands, None for an answer of its own, whose ends are
    stripped. What a first piece looks like depends on what stands before it (its space), so both are decoded together.
    """

    def __init__(self, prompt: Prompt, stops: Iterable[str] = (), continued: Sequence[int] | None = None) -> None:
        self._prompt, self._stops, self._strip = prompt, tuple(stops), continued is None
        self._ids = _after_last_stop(prompt, continued or ())  # the window
        self._settled = ""  # the text up to the last settling
        self._known = len(self._window().rstrip(UNFINISHED)) if self._ids else 0  # how much of the window is no news
        self._sent = 0
        self.stopped = False

    def feed(self, ids: Iterable[int], *, last: bool = False) -> str:
        """The text that these tokens add. ``last``: no more will come, so what was held back is sent too."""
        self._ids.extend(ids)
        text = self._decode()
        text = text.lstrip() if self._strip else text
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            text, self.stopped = text[: min(found)], True
        elif not last:
            text = text[: self._certain(text)]
        if self._strip and not self.stopped:  # a stop text may be a line's end: looked for before the end is stripped
            text = text.rstrip()
        new = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return new

    def _decode(self) -> str:
        """The whole answer's text, of which only the window is decoded."""
        window = self._window()
        text = self._settled + window[self._known :]
        if len(self._ids) > WINDOW:
            kept = self._ids[-KEPT:]
            known = self._prompt.raw_answer_text(kept)
            if window.endswith(known) and not known.endswith(UNFINISHED):  # cut between characters
                self._ids, self._settled, self._known = kept, text, len(known)
        return text

    def _window(self) -> str:
        return self._prompt.raw_answer_text(self._ids)

    def _certain(self, text: str) -> int:
        """How much of the text can be sent: no half character, no beginning of a stop text."""
        end = len(text)
        while end and text[end - 1] == UNFINISHED:
            end -= 1
        starts = (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size], 0, end))
        return end - max(starts, default=0)


def _after_last_stop(prompt: Prompt, ids: Sequence[int]) -> list[int]:
    """The part that a continuation is decoded with: an earlier text of a conversation has ended."""
    ends = [place for place, token in enumerate(ids, 1) if token in prompt.stop_ids]
    return list(ids[ends[-1] if ends else 0 :])

"""One error for everything that a learner can put right: a file, a setting or a parameter."""

from pathlib import Path

LONGEST_VALUE = 200


class InputError(ValueError):
    """Bad input, told so that a newcomer can mend it.

    The message has up to five lines, in this order::

        what is wrong
          where:   the file and the place in it (line, column, key)
          given:   the value that was found there
          allowed: what may stand there
          hint:    what to do next

    The parts are kept as attributes: ``what``, ``file``, ``place``, ``given``, ``allowed``, ``hint``.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | Path | None = None,
        place: str | int | None = None,
        given: object = None,
        allowed: str | list[str] | tuple[str, ...] | None = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.file, self.place = what, file, place
        self.given, self.allowed, self.hint = given, allowed, hint
        super().__init__(self._message())

    def _message(self) -> str:
        where = ", ".join(str(part) for part in (self.file, self.place) if part is not None)
        allowed = self.allowed if isinstance(self.allowed, str | None) else ", ".join(map(str, self.allowed))
        parts = {"where": where, "given": _shown(self.given), "allowed": allowed, "hint": self.hint}
        return "\n".join([self.what, *(f"  {name + ':':<8} {text}" for name, text in parts.items() if text)])


def _shown(value: object) -> str | None:
    """The value as a learner typed it, on one line and cut short."""
    if value is None:
        return None
    text = value if isinstance(value, str) else repr(value)
    if not text.isprintable():
        text = repr(text)[1:-1]
    if not text.strip():
        return f"{text!r} (nothing to see)"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text)} characters)"

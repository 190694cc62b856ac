"""Which encoding a Korean text file is in: found strictly, said aloud, never guessed past an error."""

import codecs
import re
from collections.abc import Sequence

from helpers.course.errors import InputError

ENCODINGS = ("utf-8", "utf-8-sig", "cp949", "euc-kr")
HANGUL = re.compile("[가-힣]")
MARK = "\ufeff"
WINDOW = 4096
NEWLINE = b"\n"


def decode_text(
    data: bytes, file: str, encoding: str | None = None, allowed: Sequence[str] = ENCODINGS
) -> tuple[str, str]:
    """The text in ``data`` and the encoding it was in, one of ``ENCODINGS``.

    Without ``encoding`` the strictest that fits is taken: utf-8-sig (a byte order mark is there), utf-8, euc-kr, cp949.
    euc-kr is the part of cp949 that has 2,350 syllables, so a cp949 file without a rarer syllable (똠, 뷁) is called
    euc-kr; the text is the same. A byte order mark is no part of the text, however often it was written. ``file`` and
    ``allowed`` are words for error messages. Raises :class:`InputError` for binary files, UTF-16, broken bytes and
    encodings not listed.
    """
    _refuse_binary(data, file)
    marked = data.startswith(codecs.BOM_UTF8)
    if encoding is not None:
        name = _listed(encoding, file)
        if name in ("utf-8", "utf-8-sig"):
            name = "utf-8-sig" if marked else "utf-8"
        return _decode(data, name, file, allowed), name
    if marked:
        return _decode(data, "utf-8-sig", file, allowed), "utf-8-sig"
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        if _mostly_utf8(data, error.start):
            raise _misfit(data, "utf-8", error, file, allowed) from error
    try:
        return data.decode("euc-kr"), "euc-kr"
    except UnicodeDecodeError:
        return _decode(data, "cp949", file, allowed), "cp949"


def _listed(encoding: str, file: str) -> str:
    try:
        name = codecs.lookup(encoding).name.replace("_", "-")
    except LookupError:
        name = ""
    if name not in ENCODINGS:
        raise InputError("this encoding is not known here", file=file, given=encoding, allowed=list(ENCODINGS))
    return name


def _decode(data: bytes, name: str, file: str, allowed: Sequence[str]) -> str:
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        raise _misfit(data, name, error, file, allowed) from error
    return text.lstrip(MARK) if name == "utf-8-sig" else text


def _misfit(data: bytes, name: str, error: UnicodeDecodeError, file: str, allowed: Sequence[str]) -> InputError:
    start = error.start + (3 if name == "utf-8-sig" else 0)  # that decoder counts from after the byte order mark
    byte = start - (data.rfind(NEWLINE, 0, start) + 1) + 1
    other = "" if _mostly_utf8(data, start) else next((other for other in ENCODINGS if _fits(data, other)), "")
    remedy = "save it again as UTF-8" if len(allowed) == 1 else "name that encoding, or save the file again as UTF-8"
    return InputError(
        f"this text is not in {name}: one of its bytes does not fit",
        file=file,
        place=f"line {data.count(NEWLINE, 0, start) + 1}, byte {byte}",
        given=f"byte 0x{data[start]:02X}",
        allowed=list(allowed),
        hint=f"it reads well as {other}: {remedy}" if other else "the file is damaged there: save it again as UTF-8",
    )


def _fits(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _mostly_utf8(data: bytes, start: int) -> bool:
    """True when the broken byte at ``start`` stands amid UTF-8 Korean, which cp949 might read as other characters."""
    text = data[max(0, start - WINDOW) : start + WINDOW].decode("utf-8", errors="replace")
    return len(HANGUL.findall(text)) > 2 * text.count("\ufffd")


def _refuse_binary(data: bytes, file: str) -> None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            "this text is in UTF-16", file=file, allowed=list(ENCODINGS), hint="in Excel, save as 'CSV UTF-8'"
        )
    zero = data.find(b"\0")
    if zero >= 0:
        raise InputError(
            "this is no text file: it holds zero bytes", file=file, place=f"line {data.count(NEWLINE, 0, zero) + 1}"
        )

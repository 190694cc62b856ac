"""Which encoding a Korean text file is in: found strictly, said aloud, never guessed past an error."""

import codecs
import re

from helpers.course.errors import InputError

ENCODINGS = ("utf-8", "utf-8-sig", "cp949", "euc-kr")
HANGUL = re.compile("[가-힣]")


def decode_text(data: bytes, file: str, encoding: str | None = None) -> tuple[str, str]:
    """The text in ``data`` and the encoding it was in, one of ``ENCODINGS``.

    Without ``encoding`` the strictest that fits is taken: utf-8-sig (a byte order mark is there), utf-8, euc-kr, cp949.
    euc-kr is the part of cp949 that has 2,350 syllables, so a cp949 file without a rarer syllable (똠, 뷁) is called
    euc-kr; the text is the same. ``file`` is the name for error messages. Raises :class:`InputError` for binary files,
    UTF-16, broken bytes and encodings not listed.
    """
    _refuse_binary(data, file)
    marked = data.startswith(codecs.BOM_UTF8)
    if encoding is not None:
        name = _listed(encoding, file)
        if name in ("utf-8", "utf-8-sig"):
            name = "utf-8-sig" if marked else "utf-8"
        return _decode(data, name, file), name
    if marked:
        return _decode(data, "utf-8-sig", file), "utf-8-sig"
    for name in ("utf-8", "euc-kr", "cp949"):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            if name == "utf-8" and _mostly_utf8(data):
                break
            continue
        return text, name
    return _decode(data, "utf-8" if _mostly_utf8(data) else "cp949", file, "cp949 or utf-8"), ""


def _listed(encoding: str, file: str) -> str:
    try:
        name = codecs.lookup(encoding).name.replace("_", "-")
    except LookupError:
        name = ""
    if name not in ENCODINGS:
        raise InputError("this encoding is not known here", file=file, given=encoding, allowed=list(ENCODINGS))
    return name


def _decode(data: bytes, name: str, file: str, tried: str | None = None) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        start = error.start + (3 if name == "utf-8-sig" else 0)
        line = data.count(b"\n", 0, start) + 1
        column = start - (data.rfind(b"\n", 0, start) + 1) + 1
        broken = data[start : start + 1].hex().upper()
        raise InputError(
            f"this text is not in {tried or name}: a byte does not fit",
            file=file,
            place=f"line {line}, byte {column}",
            given=f"byte 0x{broken}",
            allowed=list(ENCODINGS),
            hint="the file is damaged there: save it again as UTF-8"
            if tried or (name.startswith("utf-8") and _mostly_utf8(data))
            else "leave the encoding out to have it found",
        ) from error


def _mostly_utf8(data: bytes) -> bool:
    """True for UTF-8 Korean with a few broken bytes, which cp949 might read as quite other characters unsaid."""
    text = data.decode("utf-8", errors="replace")
    return len(HANGUL.findall(text)) > 2 * text.count("\ufffd")


def _refuse_binary(data: bytes, file: str) -> None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            "this text is in UTF-16", file=file, allowed=list(ENCODINGS), hint="in Excel, save as 'CSV UTF-8'"
        )
    zero = data.find(b"\0")
    if zero >= 0:
        raise InputError(
            "this is no text file: it holds zero bytes", file=file, place=f"line {data.count(bytes([10]), 0, zero) + 1}"
        )

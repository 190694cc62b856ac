"""Pickles opened safely: lists, tuples and strings, and nothing that could run code."""

import io
import pickle
import pickletools
from pathlib import Path
from typing import NoReturn

from helpers.course.atomic import atomic_write
from helpers.course.errors import InputError
from helpers.course.paths import short_path

ALLOWED = "lists, tuples and strings only"
SAVE_AGAIN = "save plain lists of str, or better a .jsonl or .csv file, which can hold no program"

Plain = str | list["Plain"] | tuple["Plain", ...]


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function by name: without them a pickle can only build plain data."""

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> NoReturn:
        raise InputError(
            f"this pickle asks for {module}.{name}; loading it could run a program on your machine",
            file=short_path(self._path),
            allowed=ALLOWED,
            hint=SAVE_AGAIN,
        )

    def persistent_load(self, pid: object) -> NoReturn:
        raise InputError("this pickle refers to an object outside itself", file=short_path(self._path), allowed=ALLOWED)


def read_pickle(path: str | Path) -> Plain:
    """Read a pickle that holds only lists, tuples and strings, nested as you like.

    Nothing in the file is ever executed: classes, functions and references to outside objects are refused by name,
    and so is every other type. Raises :class:`InputError` for those and for a damaged or empty file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("this file does not exist", file=short_path(path))
    data = path.read_bytes()
    if not data:
        raise InputError("this pickle is empty (0 bytes)", file=short_path(path), allowed=ALLOWED)
    try:
        _refuse_wild_memo(data, path)
        value = _PlainUnpickler(data, path).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything: UnpicklingError, EOFError, IndexError ...
        raise InputError(
            "this is no readable pickle: damaged, cut short, or of another format",
            file=short_path(path),
            allowed=ALLOWED,
            hint=f"Python says: {error or type(error).__name__}",
        ) from error
    _refuse_other_types(value, path)
    return value


def write_pickle(path: str | Path, value: Plain) -> Path:
    """Write lists, tuples and strings as a pickle, atomically. Raises :class:`InputError` for any other type."""
    path = Path(path)
    _refuse_other_types(value, path)
    with atomic_write(path, "wb") as file:
        pickle.dump(value, file, protocol=4)
    return path


def _refuse_wild_memo(data: bytes, path: Path) -> None:
    """A few bytes can ask the unpickler for a table of 2**32 slots; an honest pickle numbers them one by one."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise InputError("this pickle would take up all memory", file=short_path(path), allowed=ALLOWED)


def _refuse_other_types(value: object, path: Path) -> None:
    """Walk the value without recursion; an object seen before is not walked again (shared lists cost nothing)."""
    waiting, seen = [(value, "the top level")], set()
    while waiting:
        item, place = waiting.pop()
        if type(item) is str:
            _refuse_broken_text(item, path, place)
        elif type(item) not in (list, tuple):
            raise InputError(
                f"a value of type {type(item).__name__} is not admitted",
                file=short_path(path),
                place=place,
                given=item,
                allowed=ALLOWED,
                hint=SAVE_AGAIN,
            )
        elif id(item) not in seen:
            seen.add(id(item))
            outer = "" if place == "the top level" else f"{place} > "
            waiting.extend((part, f"{outer}item {number}") for number, part in enumerate(item))


def _refuse_broken_text(text: str, path: Path, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            "this text holds half a character (a lone surrogate) and cannot be saved as UTF-8",
            file=short_path(path),
            place=f"{place}, character {error.start + 1}",
            given=ascii(text),
        ) from error

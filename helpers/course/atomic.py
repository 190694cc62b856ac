"""Files and folders that are written whole or not at all, and files read with a clear word when they are damaged."""

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from helpers.course.encodings import decode_text
from helpers.course.errors import InputError
from helpers.course.paths import short_path


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when it is complete.

    A temporary file in the same folder takes the data, is flushed to the disk and then renamed over ``path``; after an
    exception or a kill the old file is still there, whole. Folders are made, a link is followed. Text (``"w"``) is UTF-8
    with ``\\n``. Raises :class:`InputError` where the system refuses: a folder of that name, no permission, a full disk.
    """
    path = Path(os.path.realpath(path))
    if mode not in ("w", "wb"):
        raise ValueError(f"mode {mode!r}: atomic_write takes 'w' or 'wb'")
    try:
        with _complete(path, mode) as file:
            yield file
    except OSError as error:
        named = Path(error.filename) if isinstance(error.filename, str) else None  # a full disk names no file
        if named and named not in (path, *path.parents) and not named.name.startswith(f".{path.name}."):
            raise  # of another file, which the caller reads meanwhile
        why = error.strerror or str(error)
        raise InputError("this file could not be written", file=short_path(path), given=why) from error


@contextmanager
def _complete(path: Path, mode: str) -> Iterator[IO[Any]]:
    if path.is_dir():
        raise IsADirectoryError("a folder has this name")
    if any(part.is_file() for part in path.parents):
        raise NotADirectoryError("a part of this path is a file, not a folder")
    if path.exists() and not os.access(path, os.W_OK):  # a rename would replace it without asking
        raise PermissionError("it is read-only")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well; a link is followed.

    After an exception in the block the old folder is untouched and the new one gone. Raises :class:`InputError` where
    `folder` is a file, and where the new folder cannot take its place: both are kept then, and the error names the new one.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not folder.is_dir():
        raise InputError("a folder is to be written here, this is a file", file=short_path(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        new.chmod(0o755)
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    old = new.with_name(f"{new.name}.old")
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    except OSError as error:
        raise InputError(
            "this folder could not be replaced; the new one is kept",
            file=short_path(folder),
            given=error.strerror,
            hint=f"it is whole: move it here yourself from {short_path(new)}",
        ) from error
    finally:  # after Ctrl-C, too
        if old.exists() and not folder.exists():
            os.replace(old, folder)
    if old.exists():
        shutil.rmtree(old)


def _umask() -> int:
    """The process's mask for new files (the system only tells it by setting it)."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, unpacked when its name ends in ``.gz``. Raises :class:`InputError`."""
    path = Path(path)
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))[:8] if path.parent.is_dir() else []
        hint = f"this folder holds {', '.join(near)}" if near else None
        raise InputError("this file does not exist", file=short_path(path), hint=hint) from None
    except IsADirectoryError:
        raise InputError("a file is needed, this is a folder", file=short_path(path)) from None
    except NotADirectoryError:
        raise InputError("a part of this path is a file, not a folder", file=short_path(path)) from None
    except PermissionError:
        raise InputError("this file may not be read", file=short_path(path), hint="see its owner and mode") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            "this .gz file is damaged or cut short", file=short_path(path), hint=f"download it again ({error})"
        ) from error


def read_text(path: str | Path, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file and the name of its encoding (see :func:`helpers.course.encodings.decode_text`)."""
    return decode_text(read_bytes(path), short_path(path), encoding)

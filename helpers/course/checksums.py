"""Checksums beside model weights: a truncated or altered file is refused before it is loaded."""

import functools
import hashlib
import re
from pathlib import Path

from helpers.course.atomic import atomic_write
from helpers.course.errors import InputError
from helpers.course.paths import repository_path, short_path

SUMS_FILE = "SHA256SUMS"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
AGAIN = "the file was cut short or changed: clone the repository again, or `git checkout -- {path}`"
LFS = "this is a Git LFS pointer, not the file itself: run `git lfs install && git lfs pull`"


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_fingerprint(name: str | Path) -> str:
    """What tells two models apart: checksums of the weights in a local folder, the name of a model of the hub.

    A file is read once as long as its size and its time of change stay. Raises :class:`InputError` where a folder has no
    safetensors: all such models would count as the same.
    """
    folder = repository_path(name)
    if not folder.is_dir():
        return str(name)
    if not (weights := sorted(folder.rglob("*.safetensors"))):
        raise InputError("this folder holds no weights as safetensors", file=short_path(folder))
    return "-".join(_known_sha256(path, path.stat().st_size, path.stat().st_mtime_ns)[:16] for path in weights)


@functools.cache
def _known_sha256(path: Path, size: int, changed: int) -> str:
    return sha256(path)


def write_checksums(folder: str | Path) -> Path:
    """Write ``SHA256SUMS`` for every file below ``folder``, in `sha256sum` format.

    Hidden files are left out, and so are ``*.md``: a card may be corrected, the weights may not. Raises
    :class:`InputError` where nothing is left.
    """
    folder = Path(folder)
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE and path.suffix != ".md"
    )
    visible = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not visible:
        raise InputError("there is no file to take a checksum of", file=short_path(folder))
    with atomic_write(folder / SUMS_FILE) as sums:
        for path in visible:
            sums.write(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n")
    return folder / SUMS_FILE


def read_checksums(folder: str | Path) -> dict[str, str]:
    """``{file name: sha256}`` as ``SHA256SUMS`` in ``folder`` says. Raises :class:`InputError` on a malformed line."""
    path = Path(folder) / SUMS_FILE
    if not path.is_file():
        raise InputError(
            f"there is no {SUMS_FILE} beside the weights",
            file=short_path(path),
            hint="clone the repository again; for a model of your own, call write_checksums(folder) once",
        )
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise InputError(
                "this is no checksum line",
                file=short_path(path),
                place=f"line {number}",
                given=line,
                allowed="64 hexadecimal digits, two spaces, a file name",
            )
        sums[match[2]] = match[1]
    if not sums:
        raise InputError("the list of checksums is empty", file=short_path(path), hint=AGAIN.format(path=SUMS_FILE))
    return sums


def verify_where_listed(folder: str | Path) -> None:
    """:func:`verify_checksums` where ``SHA256SUMS`` lies in ``folder``; a name of the model hub has none, nor need others.

    To be called before any library opens the weights of a model or an adapter.
    """
    if (Path(folder) / SUMS_FILE).is_file():
        verify_checksums(folder)


def verify_checksums(folder: str | Path) -> None:
    """Compare every file that ``SHA256SUMS`` lists with its checksum.

    Raises :class:`InputError` that names the missing, truncated or altered file and says what to do.
    """
    folder = Path(folder)
    for name, wanted in read_checksums(folder).items():
        path = folder / name
        if not path.is_file():
            raise InputError(
                "a file of this model is missing",
                file=short_path(path),
                hint="clone the repository again (with Git LFS installed, if your copy uses it)",
            )
        if sha256(path) == wanted:
            continue
        with open(path, "rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        raise InputError(
            "this file is damaged or altered: its checksum does not match",
            file=short_path(path),
            given=f"{path.stat().st_size:,} bytes, sha256 {sha256(path)[:16]}…",
            allowed=f"sha256 {wanted[:16]}…",
            hint=LFS if pointer else AGAIN.format(path=short_path(path)),
        )

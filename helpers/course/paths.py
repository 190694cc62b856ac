"""Where things lie: paths of the repository and of the larger data sets, and how a path is shown."""

import os
from pathlib import Path

from helpers.course.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


def repository_path(path: str | Path) -> Path:
    """``path`` made absolute: a relative one is taken from the root of the repository, wherever Python was started."""
    return REPOSITORY / Path(path).expanduser()


def short_path(path: str | Path) -> str:
    """``path`` as one reads it aloud: relative to the repository where it lies inside, with ``~`` for the home folder.

    Use it wherever a notebook prints a path, so that stored outputs never show one machine's folders.
    """
    absolute = Path(os.path.abspath(Path(path).expanduser()))
    if absolute.is_relative_to(REPOSITORY):
        return absolute.relative_to(REPOSITORY).as_posix()
    home = Path.home()
    if home != Path(home.anchor) and absolute.is_relative_to(home):  # in some containers "/" is the home
        return f"~/{absolute.relative_to(home).as_posix()}"
    return str(path)


def shown_model(model: str | Path) -> str:
    """A model as one reads it: its folder by :func:`short_path`, or its name on the model hub."""
    folder = repository_path(model)
    return short_path(folder) if folder.is_dir() else str(model)


def sample_data(*parts: str) -> Path:
    """A path below ``sample_data/``. Raises :class:`InputError` when it is not there."""
    return _existing(REPOSITORY.joinpath("sample_data", *parts), "run `git status` to see what your copy lacks")


def course_data_dir(*parts: str) -> Path:
    """A path in the folder of larger real data sets: ``KO_DATA_DIR``, or else ``../shared/data`` beside the checkout.

    Raises :class:`InputError` when it is not there: those sets do not belong to the repository.
    """
    folder = repository_path(os.environ.get("KO_DATA_DIR") or REPOSITORY.parent / "shared" / "data")
    return _existing(
        folder.joinpath(*parts),
        "set the environment variable KO_DATA_DIR to the folder that holds the real data sets; "
        "without them the lessons run on sample_data/",
    )


def _existing(path: Path, hint: str) -> Path:
    if not path.exists():
        raise InputError("this file or folder does not exist", file=short_path(path), hint=hint)
    return path

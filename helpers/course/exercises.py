"""Self-checks for exercise cells: they pass with a tick or answer with a hint."""

import os

STRICT_VARIABLE = "COURSE_STRICT"


class ExerciseHint(AssertionError):
    """An exercise is not solved yet; the message says what to look at next."""


def check(name: str, passed: object, hint: str) -> None:
    """Print a tick when ``passed`` is true, otherwise the hint: a learner's lesson runs on.

    ``COURSE_STRICT=1`` in the environment, as the runner and the tests set it, raises :class:`ExerciseHint` instead.
    ``passed`` may be a bool or anything whose truth is one bool (a numpy or torch scalar).
    """
    if bool(passed):
        print(f"✔ {name}")
        return
    told = f"{name}: not yet. Hint: {hint}"
    if os.environ.get(STRICT_VARIABLE) == "1":
        raise ExerciseHint(told)
    print(f"✘ {told}")

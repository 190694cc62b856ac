"""Self-checks for exercise cells: they pass with a tick or fail with a hint."""


class ExerciseHint(AssertionError):
    """An exercise is not solved yet; the message says what to look at next."""


def check(name: str, passed: object, hint: str) -> None:
    """Print a tick when ``passed`` is true, otherwise raise :class:`ExerciseHint` with the hint.

    ``passed`` may be a bool or anything whose truth is one bool (a numpy or torch scalar).
    """
    if not bool(passed):
        raise ExerciseHint(f"{name}: not yet. Hint: {hint}")
    print(f"✔ {name}")

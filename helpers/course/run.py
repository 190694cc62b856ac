"""The course runner: every lesson by papermill, resumed where it stopped, reported in ``outputs/``.

    python -m helpers.course.run course [--profile cpu] [--fresh]   every lesson; outputs/report.html and results.json
    python -m helpers.course.run lesson 02 -p temperature 0.05      one lesson with parameters of your own
    python -m helpers.course.run smoke [02 ...]                     lessons in their smallest form, in outputs/smoke/
    python -m helpers.course.run refresh [02 ...]                   store the outputs of a real run in notebooks/

Exit status: 0 all is well, 1 a lesson failed, 2 a wrong argument, 130 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers.course.command_line import add_parameters, parse_parameters
from helpers.course.errors import InputError
from helpers.course.execution import Outcome, finished_outcome, run_lesson
from helpers.course.lessons import (
    Lesson,
    check_parameters,
    choose_lessons,
    find_lessons,
    fingerprint,
    outputs_state,
)
from helpers.course.machine import detect_machine
from helpers.course.paths import REPOSITORY
from helpers.course.refresh import store_outputs
from helpers.course.report import read_results, write_report, write_results
from helpers.course.settings import PROFILES, SMOKE_VARIABLE, smoke_is_asked_for

SMOKE_TIMEOUT = 900


def main(arguments: Sequence[str] | None = None, root: Path = REPOSITORY) -> int:
    """The command line; returns the exit status. ``root`` is the folder that holds ``notebooks/`` and ``outputs/``."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options, root)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command continues at the lesson that was running", file=sys.stderr)
        return 130


def whole_course(options: argparse.Namespace, root: Path) -> int:
    """Run every lesson that is not done under this profile; write results after each and the report at the end.

    ``COURSE_SMOKE=1`` is the parameter smoke=True, so that no such run is taken for a real one; it has a report of its own.
    """
    outputs, parameters = root / "outputs", {"profile": options.profile}
    if smoke_is_asked_for():
        outputs, parameters = outputs / "smoke", parameters | {"smoke": True}
    return _run_all(find_lessons(root), outputs, parameters, root, fresh=options.fresh)


def smoke(options: argparse.Namespace, root: Path) -> int:
    """Run lessons with smoke=True; what they leave goes to ``outputs/smoke/<lesson>``."""
    lessons = choose_lessons(find_lessons(root), options.lessons)
    outputs = root / "outputs" / "smoke"
    return _run_all(lessons, outputs, {"smoke": True}, root, fresh=options.fresh, timeout=SMOKE_TIMEOUT)


def _run_all(
    lessons: list[Lesson], outputs: Path, parameters: dict[str, Any], root: Path, *, fresh: bool, timeout: int = 3600
) -> int:
    """Run `lessons`; results and report keep what they say of the others."""
    machine, every = _machine(), find_lessons(root)
    others = [lesson.name for lesson in every if lesson not in lessons]
    earlier = read_results(outputs / "results.json") if others else {}
    kept = {name: earlier[name] for name in others if name in earlier}
    outcomes: dict[str, Outcome] = {}
    for count, lesson in enumerate(lessons, 1):
        print(f"[{count:>2}/{len(lessons)}] {lesson.name:<34}", end=" ", flush=True)
        own = parameters | ({"output_dir": f"outputs/smoke/{lesson.name}"} if parameters.get("smoke") else {})
        outcome, done = _run_or_reuse(lesson, outputs / "notebooks" / lesson.path.name, own, root, fresh, timeout)
        outcomes[lesson.name] = outcome
        print(_line(outcome) + ("  (done before)" if done else ""), flush=True)
        write_results(outputs / "results.json", dict(sorted((kept | outcomes).items())), machine)
    write_report(outputs / "report.html", every, kept | outcomes, machine, outputs / "notebooks")
    return _close(outcomes, outputs, root)


def _machine() -> dict[str, Any]:
    machine = detect_machine()
    return asdict(machine) | {"profile": machine.profile}


def _run_or_reuse(
    lesson: Lesson, copy: Path, parameters: dict[str, Any], root: Path, fresh: bool, timeout: int
) -> tuple[Outcome, bool]:
    """The outcome and whether it is that of an earlier run. A lesson that cannot even start fails like any other."""
    try:
        mark = fingerprint(lesson, check_parameters(lesson, parameters), root)
        done = None if fresh else finished_outcome(copy, mark, outputs_state(lesson, root))
        offline = parameters.get("profile", "cpu") == "cpu"  # a GPU profile fetches real models from the hub
        folder = root if parameters.get("smoke") else None  # so both are tried: papermill's folder, and JupyterLab's
        outcome = done or run_lesson(
            lesson, copy, parameters, mark=mark, timeout=timeout, offline=offline, folder=folder, root=root
        )
        return outcome, done is not None
    except InputError as error:
        return _could_not(error), False


def _could_not(error: InputError) -> Outcome:
    return Outcome("failed", 0.0, 0, error={"cell": None, "source": "", "message": str(error)})


def _line(outcome: Outcome) -> str:
    return f"{outcome.status:<6} {outcome.seconds:>7.1f} s {outcome.peak_mb:>6} MB"


def _close(outcomes: dict[str, Outcome], outputs: Path, root: Path) -> int:
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.error}
    for name, outcome in failed.items():
        print(_failure(name, outcome), file=sys.stderr)
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} lessons ran, {seconds / 60:.1f} minutes of work;", end=" ")
    print(f"see {(outputs / 'report.html').relative_to(root)} and {(outputs / 'results.json').relative_to(root)}")
    return 1 if failed else 0


def _failure(name: str, outcome: Outcome) -> str:
    error = outcome.error or {}
    place = f" in cell {error['cell']}" if error["cell"] else ""
    source = "".join(f"    {line}\n" for line in error["source"].splitlines())
    return f"\n{name} failed{place}:\n{source}  {error['message']}\n"


def one_lesson(options: argparse.Namespace, root: Path) -> int:
    """Run one lesson with parameters of the learner's own; the executed copy goes to ``outputs/lessons/``."""
    [chosen] = choose_lessons(find_lessons(root), [options.lesson])
    given = [*options.parameters, *([["profile", options.profile]] if options.profile else [])]
    values = parse_parameters(given) | ({"smoke": True} if options.smoke else {})
    parameters = check_parameters(chosen, values)
    copy = root / "outputs" / "lessons" / chosen.path.name
    outcome = run_lesson(chosen, copy, parameters, offline=False)
    print(f"{chosen.name} {_line(outcome)}  {copy.relative_to(root)}")
    for name, value in outcome.metrics.items():
        print(f"  {name}: {value}")
    if outcome.error:
        print(_failure(chosen.name, outcome), file=sys.stderr)
    return 1 if outcome.error else 0


def refresh(options: argparse.Namespace, root: Path) -> int:
    """Execute lessons with their defaults and store outputs and measured figures in ``notebooks/`` itself."""
    if smoke_is_asked_for():
        raise InputError(
            "outputs of the smallest size would be stored as measured ones",
            place=f"environment variable {SMOKE_VARIABLE}",
            given="1",
            hint=f"unset {SMOKE_VARIABLE}",
        )
    outcomes: dict[str, Outcome] = {}
    for chosen in choose_lessons(find_lessons(root), options.lessons):
        print(f"{chosen.name:<34}", end=" ", flush=True)
        copy = root / "outputs" / "refresh" / chosen.path.name
        try:
            outcome = run_lesson(chosen, copy, {})
            if not outcome.error:
                store_outputs(chosen, copy, outcome)
        except InputError as error:
            outcome = _could_not(error)
        outcomes[chosen.name] = outcome
        print(_line(outcome), flush=True)
        if outcome.error:
            print(_failure(chosen.name, outcome), file=sys.stderr)
    return 1 if any(outcome.error for outcome in outcomes.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.course.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="course | lesson | smoke | refresh")
    every = commands.add_parser("course", help="run every lesson, resume where it stopped, write the report")
    every.add_argument("--profile", choices=PROFILES, default="cpu")
    every.add_argument("--fresh", action="store_true", help="run lessons again that are done")
    every.set_defaults(command=whole_course)
    one = commands.add_parser("lesson", help="run one lesson with parameters of your own")
    one.add_argument("lesson", help="its number, e.g. 02 or A1")
    add_parameters(one)
    one.add_argument("--profile", choices=PROFILES)
    one.add_argument("--smoke", action="store_true", help="in its smallest form")
    one.set_defaults(command=one_lesson)
    small = commands.add_parser("smoke", help="run lessons in their smallest form")
    small.add_argument("lessons", nargs="*")
    small.add_argument("--fresh", action="store_true", help="run lessons again that are done")
    small.set_defaults(command=smoke)
    store = commands.add_parser("refresh", help="store the outputs of a real run in notebooks/")
    store.add_argument("lessons", nargs="*")
    store.set_defaults(command=refresh)
    return parser


if __name__ == "__main__":
    sys.exit(main())

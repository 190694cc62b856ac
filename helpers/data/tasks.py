"""Instruction sets of 22 tasks: the command, and the door to the functions behind it.

    python -m helpers.data.tasks --source sample_data/tasks/source --output outputs/instructions.jsonl \\
        --dev_output outputs/instructions_dev.jsonl --card outputs/README.md \\
        --zero_shot sample_data/zero_shot

reads files and folders of source rows (known by their names: ``instruction_tasks/sources.py``), writes
``{"instruction", "input", "output", "task"}`` a line, and puts every row that was refused, with file, line and reason, into
``<output>.rejected.jsonl``. ``--zero_shot`` names the folder of the four zero-shot test sets; rows that hold a text of
them are refused.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY, short_path, write_jsonl
from helpers.course.rejects import Rejects
from helpers.data.instruction_tasks.building import Built, TaskSet, build, check_row
from helpers.data.instruction_tasks.card import Report, card_text, write_card
from helpers.data.instruction_tasks.leakage import (
    THRESHOLD,
    LeakIndex,
    N,
    split_by_group,
    take_out_leaks,
    zero_shot_texts,
)
from helpers.data.instruction_tasks.phrasings import draw, read_all_phrasings, read_phrasings
from helpers.data.instruction_tasks.rows import in_three_keys
from helpers.data.instruction_tasks.sources import read_sources
from helpers.data.instruction_tasks.table import TASKS, Task

__all__ = [
    "TASKS", "Built", "Report", "Task", "TaskSet", "build", "card_text", "check_row", "draw", "main", "make_set",
    "read_all_phrasings", "read_phrasings", "read_sources", "split_by_group", "take_out_leaks",
]  # fmt: skip

PHRASINGS = REPOSITORY / "sample_data" / "tasks" / "phrasings"
NEEDED_PHRASINGS = 100


def make_set(
    source: Iterable[str | Path],
    output: str | Path,
    *,
    dev_output: str | Path | None = None,
    card: str | Path | None = None,
    phrasings: str | Path = PHRASINGS,
    zero_shot: str | Path | None = None,
    seed: int = 13,
    dev_share: float = 0.1,
    max_characters: int = 4000,
    most: int | None = None,
    n: int = N,
    threshold: float = THRESHOLD,
    three_keys: bool = False,
) -> Report:
    """Read, build, take out leaks, split and write, each file atomically; see :func:`build` for the limits.

    Without ``dev_output`` nothing is held out. ``zero_shot``: the folder that holds the four test sets. ``three_keys``: rows
    in the form of KOSITP (:func:`helpers.data.instruction_tasks.rows.in_three_keys`). Raises :class:`InputError` where no
    row is left (the refused ones are kept), and before anything is written where a file would overwrite a source or another.
    """
    start = time.perf_counter()
    rejects, source = Rejects(output), list(source)
    outputs = {"output": output, "dev_output": dev_output, "card": card, "refused rows": rejects.path}
    _keep_apart(source, {name: path for name, path in outputs.items() if path})
    index = LeakIndex(zero_shot_texts(zero_shot) if zero_shot else {}, n, threshold)
    sources = read_sources(source, rejects)
    wordings = read_all_phrasings(phrasings, TASKS, NEEDED_PHRASINGS)
    made = build(sources.items, wordings, rejects, seed=seed, max_characters=max_characters, most=most)
    kept, leaked = take_out_leaks(made.rows, index, rejects)
    rejects.save()
    if not kept:
        raise InputError("no row is left", file=short_path(output), given=rejects.summary())
    train, dev = split_by_group(kept, dev_share, seed) if dev_output else (kept, [])
    form = in_three_keys if three_keys else dict
    write_jsonl(output, (form(built.row) for built in train))
    if dev_output:
        write_jsonl(dev_output, (form(built.row) for built in dev))
    report = Report(sources, train, dev, rejects, made.left_out, leaked, index.sizes, time.perf_counter() - start)
    if card:
        name = Path(output).name
        write_card(card, report, name=name, seed=seed, n=n, threshold=threshold, three_keys=three_keys)
    return report


def _keep_apart(sources: Iterable[str | Path], outputs: Mapping[str, str | Path]) -> None:
    """Raise :class:`InputError` where two outputs are one file, or one of them is a source or lies inside one."""
    read = [Path(path).resolve() for path in sources]
    named: dict[Path, str] = {}
    for name, path in outputs.items():
        path = Path(path).resolve()
        if path in named:
            raise InputError(f"{name} would overwrite {named[path]}", place=name, given=short_path(path))
        if any(path.is_relative_to(source) for source in read):
            what = f"{name} would overwrite a source" if path in read else f"{name} would lie among the sources"
            raise InputError(what, place=name, given=short_path(path), hint="write into another folder")
        named[path] = name


def main(arguments: Sequence[str] | None = None) -> Report:
    """Run the command and print its report. Raises :class:`InputError` for input that does not fit."""
    told = _parser().parse_args(arguments)
    report = make_set(**vars(told))
    print(report.summary())
    print(f"written   {short_path(told.output)}")
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data.tasks", description="Instruction sets of 22 tasks from source rows."
    )
    add = parser.add_argument
    add("--source", type=Path, nargs="+", required=True, help="files or folders of source rows")
    add("--output", type=Path, required=True, help="jsonl file of the rows to train on")
    add("--dev_output", type=Path, help="jsonl file of held-out rows; left out: none are held out")
    add("--dev_share", type=float, default=0.1, help="share that is held out (0.1)")
    add("--card", type=Path, help="data card (Markdown)")
    add("--phrasings", type=Path, default=PHRASINGS, help="folder with <task>.txt, one wording a line")
    add("--zero_shot", type=Path, help="folder of the test sets whose texts must not be in it")
    add(
        "--three_keys",
        action="store_true",
        help="rows as KOSITP has them: input (with the instruction), output, Task_name",
    )
    add("--seed", type=int, default=13, help="of every draw (13)")
    add("--max_characters", type=int, default=4000, help="longest row, all its texts together (4000)")
    add("--most", type=int, help="at most so many rows a task, drawn by the seed")
    add("--n", type=int, default=N, help=f"characters of an n-gram in the leakage check ({N})")
    add("--threshold", type=float, default=THRESHOLD, help=f"share of a test text that is a leak ({THRESHOLD})")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))

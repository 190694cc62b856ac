"""What a run made, in words for the screen and as a data card for the folder."""

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from helpers.course.files import atomic_write, repository_path, short_path
from helpers.course.rejects import Rejects
from helpers.data.instruction_tasks.building import Built
from helpers.data.instruction_tasks.extras import EXTRAS
from helpers.data.instruction_tasks.sources import Sources
from helpers.data.instruction_tasks.table import TASKS

OF_ZERO_SHOT = {"nsmc_sentiment": "NSMC"}
"""Tasks of labels that lesson 10 tests."""


@dataclass
class Report:
    """What a run did: the sources, the rows kept for training and held out, what was refused and why.

    ``leaked``: refused rows by test set, ``test_texts``: how many texts of each were looked for;
    ``left_out``: rows above the limit of a task.
    """

    sources: Sources
    train: list[Built]
    dev: list[Built]
    rejects: Rejects
    left_out: Counter[str]
    leaked: Counter[str]
    test_texts: Counter[str]
    seconds: float

    @property
    def tasks(self) -> Counter[str]:
        """Rows of each task, training and held out."""
        return Counter(built.row["task"] for built in (*self.train, *self.dev))

    def summary(self) -> str:
        """The counts in words, as the command prints them."""
        held_out = sum(self.sources.held_out.values())
        lines = [f"read      {len(self.sources.items):,} source items ({held_out:,} of dev and test sides left alone)"]
        lines += [f"          no reader knows {name}" for name in self.sources.unread]
        lines += [f"kept      {len(self.train):,} rows to train, {len(self.dev):,} held out, {len(self.tasks)} tasks"]
        lines += [f"          {count:>7,}  {task}" for task, count in self.tasks.most_common()]
        lines += [f"left out  {self.left_out.total():,} rows above the limit of a task"] if self.left_out else []
        lines += [f"leaked    {self.leaked.total():,} rows, {self.test_texts.total():,} test texts looked for"]
        lines += [f"refused   {len(self.rejects):,} rows"]
        lines += [f"          {count:>7,}  {reason}" for reason, count in self.rejects.counts.most_common()]
        return "\n".join([*lines, f"time      {self.seconds:.1f} s"])


def write_card(
    path: str | Path,
    report: Report,
    *,
    name: str,
    seed: int,
    n: int,
    threshold: float,
    three_keys: bool = False,
) -> Path:
    """Write :func:`card_text` atomically."""
    with atomic_write(path) as file:
        file.write(card_text(report, name, seed, n, threshold, three_keys))
    return Path(path)


def card_text(report: Report, name: str, seed: int, n: int, threshold: float, three_keys: bool = False) -> str:
    """The data card in Markdown: counts, lengths, rules, sources, refused rows and the leakage check.

    The same run gives the same text: it holds no time and no path of a machine.
    """
    form = '`{"instruction", "input", "output", "task"}`'
    if three_keys:
        form = '`{"input", "output", "Task_name"}`, with the instruction inside the input'
    parts = [
        f"# {name}: instruction data of {len(report.tasks)} tasks\n",
        f"{len(report.train):,} rows to train on, {len(report.dev):,} held out; seed {seed}. A row is "
        f"{form}. Both sides share no article, table or source line.\n",
        "## Tasks\n",
        *_task_table(report),
        "\n## Sources\n",
        *_source_table(report),
        "\n## Refused rows\n",
        *_refused(report.rejects),
        "## Leakage\n",
        *_leakage(report, n, threshold),
    ]
    return "\n".join(parts) + "\n"


def _refused(rejects: Rejects) -> list[str]:
    if not rejects.counts:
        return ["None.\n"]
    return [
        "| rows | reason |\n|---|---|",
        *(f"| {count:,} | {reason} |" for reason, count in rejects.counts.most_common()),
        f"\nAll of them stand, with file, line and reason, in `{rejects.path.name}`.\n",
    ]


def _task_table(report: Report) -> list[str]:
    rows = defaultdict(list)
    for built in (*report.train, *report.dev):
        rows[built.row["task"]].append(built.row)
    total = sum(map(len, rows.values()))
    lines = ["| task | rows | share | wordings | input | output | rule |\n|---|---|---|---|---|---|---|"]
    known = [*TASKS, *EXTRAS]
    for task in [*(key for key in known if key in rows), *sorted(rows.keys() - set(known))]:
        own = rows[task]
        lengths = [round(statistics.median(len(row[key]) for row in own)) for key in ("input", "output")]
        wordings = len({row["instruction"] for row in own})
        rule = (
            TASKS[task].rule if task in TASKS else "beside the 22" if task in EXTRAS else "a name of its own: no rule"
        )
        cells = (task, f"{len(own):,}", f"{len(own) / total:.1%}", wordings, *lengths, rule)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "\nwordings: different instructions in use; input, output: median characters."]


def _source_table(report: Report) -> list[str]:
    items = Counter(item.file for item in report.sources.items)
    kept = Counter(built.file for built in (*report.train, *report.dev))
    lines = ["| file | usable items | rows kept | held-out rows left alone |\n|---|---|---|---|"]
    for file in sorted(items):
        held = report.sources.held_out[file]
        lines.append(f"| {_name(file)} | {items[file]:,} | {kept[file]:,} | {held:,} |")
    return lines


def _leakage(report: Report, n: int, threshold: float) -> list[str]:
    if not report.test_texts:
        return ["No test set was named: nothing was checked."]
    lines = [
        f"Checked against {report.test_texts.total():,} texts of {', '.join(report.test_texts)}: a row is refused where one "
        f"of its texts holds {threshold:.0%} of the character {n}-grams of a test text (spaces, punctuation and case left "
        f"out), or equals one that is shorter. Refused: {report.leaked.total():,}."
    ]
    lines += [f"- {test_set}: {count:,} rows" for test_set, count in sorted(report.leaked.items())]
    seen = [f"`{task}` ({name})" for task, name in OF_ZERO_SHOT.items() if task in report.tasks]
    if seen:
        lines.append(f"\nThe task itself is in the training data: {', '.join(seen)}. A score on it is not zero-shot.")
    return lines


def _name(file: str) -> str:
    """A path of the repository, else the last two parts of a path: a card never shows one machine's folders.

    ``file`` has been shortened when it was read, so it is taken from the root, not from where Python runs.
    """
    short = Path(short_path(repository_path(file)))
    return str(short) if not short.is_absolute() else "/".join(short.parts[-2:])

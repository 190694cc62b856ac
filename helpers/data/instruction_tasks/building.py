"""From source items to a set of rows: formats, validators, wordings, no repetition, no contradiction, nothing lost."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from helpers.course.errors import InputError
from helpers.course.rejects import Rejects
from helpers.data.instruction_tasks.extras import EXTRAS, Ready, extra
from helpers.data.instruction_tasks.material import Material, Refused
from helpers.data.instruction_tasks.phrasings import draw
from helpers.data.instruction_tasks.sources import Item
from helpers.data.instruction_tasks.table import TASKS
from helpers.data.text import key_of, text_key

Row = dict[str, str]
KEYS = ("instruction", "input", "output", "task")


@dataclass(frozen=True)
class Built:
    """One row of the set with where it came from; ``group``: the article, table or line, for a split without leaks."""

    row: Row
    group: str
    file: str
    line: int | None


@dataclass
class TaskSet:
    """The rows that were kept, and how many each step took out (their rows are in the rejects, except ``left_out``)."""

    rows: list[Built] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def as_rows(self) -> list[Row]:
        """The rows as they go to a file."""
        return [built.row for built in self.rows]

    def counts(self) -> Counter[str]:
        """Rows of each task."""
        return Counter(built.row["task"] for built in self.rows)


def check_row(row: Mapping[str, object]) -> str | None:
    """Why a finished row is no good, or None: its four texts, then the constraint of its task, where we know one."""
    for key in KEYS:
        value = row.get(key)
        if not isinstance(value, str) or (not value.strip() and key != "input"):
            return f"the row has no text under {key}"
    task, text, output = row["task"], row["input"], row["output"]
    if task in TASKS:
        return TASKS[task].check(text, output) if text else "the row has no text under input"
    allowed = extra(task).outputs
    return "the output is no label of the task" if allowed and output not in allowed else None


def build(
    items: Iterable[Item],
    phrasings: Mapping[str, tuple[str, ...]],
    rejects: Rejects,
    *,
    seed: int = 13,
    max_characters: int = 4000,
    most: int | None = None,
) -> TaskSet:
    """Every row that the items give. What is refused goes to ``rejects`` with file, line and reason.

    ``phrasings``: wordings by task. A row longer than ``max_characters`` in all is refused. ``most``: so many rows a task at
    the most, drawn by ``seed``.
    """
    if most is not None and most < 1:
        raise InputError("too few rows a task are asked for", place="most", given=most, allowed="1 or more")
    wordings = {task: extra.phrasings for task, extra in EXTRAS.items()} | dict(phrasings)
    good: list[Built] = []
    for item in items:
        for built, reason in _candidates(item, wordings, seed):
            reason = reason or check_row(built.row)
            if reason is None and sum(map(len, built.row.values())) > max_characters:
                reason = f"the row has more than {max_characters:,} characters"
            if reason is None:
                good.append(built)
            else:
                rejects.add(built.row, built.file, built.line, reason)
    return _balanced(_distinct(good, rejects), most, seed)


def _candidates(item: Item, wordings: Mapping[str, tuple[str, ...]], seed: int) -> Iterator[tuple[Built, str | None]]:
    """One row for each task that takes the item; with the reason, where a format refused it."""
    content = item.content
    if isinstance(content, Ready):
        said, reason = content.instruction, None
        if not said and wordings.get(content.task):
            said = draw(wordings, content.task, content.name, seed)
        elif not said:
            reason = "the row has no instruction, and there are no wordings of its task"
        yield _built(said, content.input, content.output, content.task, content.name, item), reason
        return
    for task in TASKS.values():
        if task.takes(content) and (item.only is None or task.key in item.only):
            rng = random.Random(f"{seed} cut {task.key} {content.name}")
            try:
                text, output = task.make(content, rng)
            except Refused as reason:
                yield _built("", _shown(content), "", task.key, content.group, item), str(reason)
                continue
            said = draw(wordings, task.key, content.name, seed)
            yield _built(said, text, output, task.key, content.group, item), None


def _built(instruction: str, text: str, output: str, task: str, group: str, item: Item) -> Built:
    row = dict(zip(KEYS, (instruction, text, output, task), strict=True))
    return Built(row, group, item.file, item.line)


def _shown(content: Material) -> str:
    return content.model_dump_json(exclude_none=True)


def _question_key(row: Row) -> tuple[str, str, str]:
    """What is asked: task and input (its wording, where there is no input) without spaces, punctuation and case.

    Where the wording is not drawn it is the question itself, and belongs to the key.
    """
    own = row["task"] not in TASKS and not extra(row["task"]).phrasings
    said = text_key(row["instruction"])
    return row["task"], said if own else "", text_key(row["input"]) or said or row["input"]


def _distinct(rows: Sequence[Built], rejects: Rejects) -> list[Built]:
    """The first of rows that ask and answer the same; none of those that contradict each other."""
    answers: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for built in rows:
        answers[_question_key(built.row)].add(key_of(built.row["output"]))
    seen: set[tuple[str, ...]] = set()
    kept = []
    for built in rows:
        question = _question_key(built.row)
        whole = (*question, key_of(built.row["output"]))
        task = TASKS.get(built.row["task"]) or extra(built.row["task"])
        if task.one_answer and len(answers[question]) > 1:
            reason = "the same input has another answer elsewhere"
        elif whole in seen:
            reason = "the same row stands in the set already"
        else:
            seen.add(whole)
            kept.append(built)
            continue
        rejects.add(built.row, built.file, built.line, reason)
    return kept


def _balanced(rows: list[Built], most: int | None, seed: int) -> TaskSet:
    """At most ``most`` rows of each task, drawn by the seed, in their old order."""
    if most is None:
        return TaskSet(rows)
    places: dict[str, list[int]] = defaultdict(list)
    for place, built in enumerate(rows):
        places[built.row["task"]].append(place)
    kept: set[int] = set()
    left_out: Counter[str] = Counter()
    for task, own in places.items():
        chosen = own if len(own) <= most else random.Random(f"{seed} {task}").sample(own, most)
        kept |= set(chosen)
        left_out[task] = len(own) - len(chosen)
    return TaskSet([built for place, built in enumerate(rows) if place in kept], +left_out)

"""Where the curves of a run go while it trains: nowhere, to TensorBoard files, or to Weights & Biases (offline first)."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from helpers.course.paths import short_path

Logger = Literal["none", "tensorboard", "wandb"]
PROJECT = "korean-fine-tuning"
EVENTS = "events.out.tfevents.*"


class RunLog(Protocol):
    """What a trainer calls."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep some named numbers of one step."""


class _Nowhere:
    def log(self, values: Mapping[str, float], step: int) -> None:
        pass


class _TensorBoard:
    def __init__(self, folder: Path, anew: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second, and only who asks for it pays

        if anew:  # or TensorBoard would draw every run that wrote here as one curve
            for events in folder.glob(EVENTS):
                events.unlink()
        self.writer = SummaryWriter(folder)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)


class _Wandb:
    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)  # wandb would take a temporary folder for one that is missing
        self.run = wandb.init(
            project=PROJECT,
            name=name,
            dir=folder,
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),  # nothing leaves the machine unless the learner says online
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, disable_job_creation=True,
                x_disable_stats=True, x_disable_machine_info=True,
            ),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)


@contextmanager
def run_log(
    logger: Logger, folder: Path, name: str, settings: Mapping[str, Any], *, anew: bool = True
) -> Iterator[RunLog]:
    """A log for one run, closed when the block ends, also by an error.

    ``folder`` takes ``tensorboard/`` or ``wandb/``. TensorBoard's files of an earlier run go, unless the run goes on from
    it (``anew`` False); W&B keeps its runs apart itself. ``settings`` are shown beside a W&B run; paths in them are made
    short. W&B runs offline unless ``WANDB_MODE=online`` is set; ``wandb sync <folder>/wandb/offline-run-*`` uploads later.
    """
    if logger == "tensorboard":
        board = _TensorBoard(folder / "tensorboard", anew)
        try:
            yield board
        finally:
            board.writer.close()
    elif logger == "wandb":
        shown = {key: short_path(value) if isinstance(value, Path) else value for key, value in settings.items()}
        weights_and_biases = _Wandb(folder, name, shown)
        try:
            yield weights_and_biases
        finally:
            weights_and_biases.run.finish()
    else:
        yield _Nowhere()


def read_curves(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in TensorBoard's files below ``folder``: ``{name: [(step, value), ...]}``; empty without any.

    A step that a stopped run had logged and its continuation logged again has the later value.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, dict[int, float]] = {}
    for events in sorted(Path(folder).rglob(EVENTS), key=lambda path: path.stat().st_mtime_ns):
        found = EventAccumulator(str(events)).Reload()
        for name in found.Tags()["scalars"]:
            curves.setdefault(name, {}).update((event.step, event.value) for event in found.Scalars(name))
    return {name: sorted(curve.items()) for name, curve in curves.items()}

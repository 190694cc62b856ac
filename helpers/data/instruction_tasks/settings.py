"""Settings of lesson 06."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from helpers.course.settings import LessonSettings
from helpers.data.instruction_tasks.leakage import THRESHOLD, N


class InstructionDataSettings(LessonSettings):
    """The common settings, where source rows and wordings lie, and the limits of the set that is made.

    Names of sources and of the folder of test sets are taken from ``data_dir``; absolute ones stand for themselves.
    """

    default_config: ClassVar[str | None] = "config/instruction_data.yaml"

    source: list[str] = Field(min_length=1, description="files and folders of source rows")
    phrasings_dir: Path = Field(description="folder with <task>.txt, one wording of the instruction a line")
    zero_shot_dir: str = Field(description="folder of the four test sets whose texts must stay out")
    dev_share: float = Field(0.1, gt=0, lt=1, description="share of the rows that is held out")
    max_characters: int = Field(4000, ge=100, description="longest row, all its texts together")
    most: int | None = Field(None, ge=1, description="at most so many rows a task; null: all")
    max_length: int = Field(256, ge=16, description="lesson 07's max_seq_length, in pieces: it puts longer rows aside")
    n: int = Field(N, ge=2, le=50, description="characters of an n-gram in the leakage check")
    threshold: float = Field(THRESHOLD, gt=0, le=1, description="share of a test text's n-grams that is a leak")

    def data(self, name: str) -> Path:
        """A file or folder of ``data_dir``."""
        return self.data_dir / name

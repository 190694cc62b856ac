"""What the settings of lessons 02, 04 and 05 share: files of `data_dir`, or else of the repository."""

from __future__ import annotations

from pathlib import Path

from helpers.course.files import short_path
from helpers.course.paths import REPOSITORY
from helpers.course.settings import LessonSettings


class DataSettings(LessonSettings):
    """Settings of a lesson that reads data sets."""

    def data(self, name: str) -> Path:
        """A file or folder of `data_dir`; where that lacks it and `sample_data` has it, the latter is taken, and said."""
        path, sample = self.data_dir / name, REPOSITORY / "sample_data" / name
        if not path.exists() and sample.exists():
            print(f"{short_path(path)} does not exist: {short_path(sample)} is taken")
            return sample
        return path

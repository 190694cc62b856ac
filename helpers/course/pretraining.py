"""Settings of lesson A1."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from helpers.course.settings import LessonSettings


class PretrainingLesson(LessonSettings):
    """What lesson A1 can be told; the runs themselves read ``recipe``."""

    default_config: ClassVar[str | None] = "config/pretraining_lesson.yaml"

    recipe: Path = Field(Path("config/pretraining.yaml"), description="the settings of pretraining runs")
    encoder_model: str = Field(description="the encoder whose training log is shown")
    vocab_size: int = Field(2048, ge=1536, le=32768, description="pieces of the lesson's tokenizers, bytes included")
    hidden: int = Field(128, ge=32, multiple_of=16, description="width of the lesson's models")
    layers: int = Field(2, ge=1, le=64, description="layers of the lesson's models")
    lm_tokens: int = Field(ge=2048, description="pieces that the lesson's language model reads")
    encoder_tokens: int = Field(ge=2048, description="positions that the lesson's encoder reads")
    batch_tokens: int = Field(1024, ge=1024, multiple_of=512, description="pieces a step")
    held_out_lines: int = Field(60, ge=5, description="held-out lines that bits per character are measured on")

"""Settings of lesson 00."""

from typing import ClassVar

from pydantic import Field

from helpers.course.settings import LessonSettings


class StartSettings(LessonSettings):
    """The common settings and what the first look at a language model needs."""

    default_config: ClassVar[str | None] = "config/start.yaml"

    language_model: str = Field(description="a folder of the repository or a name on the model hub")
    max_new_tokens: int = Field(40, ge=1, le=1024, description="the longest continuation, in pieces")

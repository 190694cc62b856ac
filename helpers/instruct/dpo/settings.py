"""Settings of preference tuning (lesson 08), typed and checked."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from helpers.course.settings import LessonSettings

Loss = Literal["sigmoid", "sigmoid_norm", "ipo", "hinge"]


class DpoSettings(LessonSettings):
    """All that a run of DPO can be told. ``model`` is the base under the tuned adapter."""

    default_config: ClassVar[str] = "config/dpo.yaml"

    adapter: Path | None = Field(
        None, description="the tuned adapter to start from; null: what lesson 07 left, or its smallest form"
    )
    backend: Literal["unsloth", "peft"] = Field("unsloth", description="who loads the model: Unsloth, or plain peft")
    train_path: Path = Field(description="pairs to learn (jsonl): prompt, chosen, rejected")
    test_path: Path | None = Field(
        None, description="held-out pairs; null: test.jsonl beside train_path, if there is one"
    )
    test_every: int = Field(4, ge=2, description="which questions are kept aside where there is no test_path")
    max_pairs: int | None = Field(None, ge=4, description="at most so many training pairs")
    max_test_pairs: int | None = Field(None, ge=4, description="at most so many test pairs")
    max_length: int = Field(
        512, ge=16, description="tokens of question and answer; a longer pair is put aside, never cut"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: what the machine computes"
    )
    load_in_4bit: bool = Field(False, description="weights in 4 bits: less memory, slower")

    beta: float = Field(0.1, gt=0, le=10, description="how dear it is to move away from the reference")
    loss_type: Loss = Field("sigmoid", description="sigmoid: DPO; sigmoid_norm: by the mean of a token, not the sum")
    sft_weight: float = Field(0.0, ge=0, description="weight of an added loss on the chosen answer: holds it up")
    length_matched: bool = Field(False, description="keep pairs of like difference in length only")

    num_train_epochs: float = Field(1, gt=0, description="how often each pair is seen")
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    train_batch_size: int = Field(4, ge=1, description="pairs a forward pass; each is two sequences")
    gradient_accumulation_steps: int = Field(4, ge=1, description="passes a step")
    learning_rate: float = Field(5e-6, gt=0, lt=1, description="far below that of instruction tuning")
    warmup_steps: int = Field(2, ge=0, description="steps in which the rate rises")
    weight_decay: float = Field(0.0, ge=0, description="pull of the adapter towards 0")
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field("adamw_torch", description="the optimizer")
    use_gradient_checkpointing: bool | Literal["unsloth"] = Field(False, description="less memory, more time")
    logging_steps: int = Field(1, ge=1, description="steps between reports")
    save_steps: int = Field(100, ge=1, description="steps between checkpoints: what a kill can cost")

    betas: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (0.02, 0.1, 0.5), min_length=2, description="the lesson's comparison of beta"
    )
    short_steps: int = Field(10, ge=1, description="the lesson's comparisons: steps of each short run")
    shown_answers: int = Field(6, ge=1, description="answers side by side")
    bootstrap_draws: int = Field(2000, ge=100, description="draws of the 95% interval")

    @model_validator(mode="after")
    def _ready(self) -> Self:
        if self.sft_weight and self.loss_type == "sigmoid_norm":
            raise ValueError("sft_weight goes with loss_type sigmoid, ipo or hinge: sigmoid_norm has another scale")
        return self

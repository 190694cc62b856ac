"""Settings of instruction tuning (lesson 07): the key names of KOSITP's JSON files, typed and checked."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator

from helpers.course.settings import LessonSettings

SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Optimizer = Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_fused"]


class InstructionSettings(LessonSettings):
    """All that a run of LoRA instruction tuning can be told. A settings file of KOSITP
    (github.com/cjw94103/KOSITP) loads as it is."""

    default_config: ClassVar[str] = "config/instruction_lora.yaml"

    model: str = Field(
        validation_alias=AliasChoices("model", "pretrained_model_name"),
        description="the base: a folder of the repository or a name on the model hub",
    )
    seed: int = Field(
        13, ge=0, lt=2**32, validation_alias=AliasChoices("seed", "random_state"), description="all draws"
    )
    depth_up_scale_dropped: int | None = Field(
        None, ge=1, description="make a deeper model first, as SOLAR was made: layers dropped from each of two copies"
    )

    train_path: Path | None = Field(None, description="rows to train on (jsonl); null: the course's own")
    val_path: Path | None = Field(None, description="rows to validate on; null: val_share of the training rows")
    val_share: float = Field(0.1, gt=0, lt=1, description="share kept aside where there is no val_path")
    max_rows: int | None = Field(None, ge=8, description="at most so many training rows")
    max_val_rows: int = Field(200, ge=2, description="at most so many validation rows")
    template: Literal["seed", "chat"] = Field("seed", description="seed: ###입력/###출력; chat: the tokenizer's own")
    system: str = Field("", description="a text that goes before every question")

    max_seq_length: int = Field(2048, ge=32, description="tokens; longer rows are put aside, never cut")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: what the machine computes"
    )
    load_in_4bit: bool = Field(False, description="weights in 4 bits (QLoRA): less memory, slower")

    lora_r: int = Field(8, ge=1, le=512, description="rank: how many directions a correction has")
    lora_alpha: float = Field(32, gt=0, description="the correction is scaled by alpha / r (rsLoRA: alpha / sqrt r)")
    lora_target_modules: tuple[str, ...] = Field(SEVEN_PROJECTIONS, min_length=1, description="layers that get one")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Unsloth's fast path wants 0")
    use_rslora: bool = Field(False, description="scale by alpha / sqrt r: keeps high ranks learning")
    use_gradient_checkpointing: bool | Literal["unsloth"] = Field(
        "unsloth", description="compute activations twice instead of keeping them: less memory, more time"
    )

    num_train_epochs: float = Field(3, gt=0, description="how often each row is seen")
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    train_batch_size: int = Field(4, ge=1, description="rows a forward pass")
    eval_batch_size: int = Field(4, ge=1, description="rows a forward pass of validation")
    gradient_accumulation_steps: int = Field(4, ge=1, description="passes a step: rows a step = both multiplied")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="the highest rate; it falls to 0")
    warmup_steps: int = Field(5, ge=0, description="steps in which the rate rises")
    weight_decay: float = Field(0.01, ge=0, description="pull of the adapter towards 0")
    optim: Optimizer = Field("adamw_8bit", description="adamw_8bit: state in a quarter of the memory")
    packing: bool = Field(False, description="many rows in one sequence (GPU); no PAD at all")
    group_by_length: bool = Field(True, description="rows of like length in one batch: little PAD")

    evaluation_strategy: Literal["no", "steps", "epoch"] = Field("steps", description="when validation runs")
    eval_steps: int = Field(100, ge=1, description="steps between validations")
    save_steps: int = Field(100, ge=1, description="steps between checkpoints: what a kill can cost")
    logging_steps: int = Field(10, ge=1, description="steps between reports")
    load_best_model_at_end: bool = Field(True, description="end at the checkpoint with the lowest validation loss")
    save_total_limit: int = Field(2, ge=1, description="checkpoints kept")
    model_use_cache: bool = Field(False, description="keep keys and values while training: no use, and memory")

    short_rows: int = Field(200, ge=8, description="the lesson's comparisons: rows drawn for the short runs")
    short_steps: int = Field(12, ge=1, description="the lesson's comparisons: steps of each short run")
    ranks: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        (2, 16, 128), min_length=2, description="the lesson's comparison of ranks"
    )

    @field_validator("use_gradient_checkpointing", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        """``"True"`` in quotes is true, as Python's own word for it is; KOSITP's files hold a plain ``true``."""
        return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _best_needs_validation(self) -> Self:
        if self.load_best_model_at_end and self.evaluation_strategy == "no":
            raise ValueError("load_best_model_at_end needs evaluation_strategy steps or epoch")
        if self.load_best_model_at_end and self.evaluation_strategy == "steps" and self.save_steps != self.eval_steps:
            raise ValueError(
                "the best checkpoint can only be kept where every validation has one: save_steps "
                f"{self.save_steps} must be eval_steps, {self.eval_steps}"
            )
        return self

    @property
    def rows_a_step(self) -> int:
        """Rows that one optimizer step has seen."""
        return self.train_batch_size * self.gradient_accumulation_steps

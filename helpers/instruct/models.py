"""Load a causal language model with its tokenizer, weights verified."""

import gc
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from helpers.course.checksums import verify_where_listed
from helpers.course.errors import InputError
from helpers.course.files import repository_path, short_path
from helpers.course.machine import detect_machine, torch_device
from helpers.course.quiet import quiet


def load_language_model(
    name: str, dtype: torch.dtype | None = None, *, load_in_4bit: bool = False
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model in evaluation mode, on the GPU where there is one.

    `name` is a folder of the repository or a name on the model hub. Weights must be safetensors, are verified where
    SHA256SUMS lies beside them, and are held in ``dtype``: by default bfloat16 where the machine computes it itself, else
    float16 on a GPU and float32 on a CPU. ``load_in_4bit``: as QLoRA and Unsloth do it (NF4, quantised twice). A GPU is
    filled one tensor after the other: 16 bits of a 7B model are more than the main memory of a small machine. Raises
    InputError when there is no such model or a file of it is damaged.
    """
    quiet()
    folder = repository_path(name)
    local = folder.is_dir()
    verify_where_listed(folder)
    device = torch_device()
    auto = torch.bfloat16 if detect_machine().bf16 else torch.float16 if device.type == "cuda" else torch.float32
    source, told = str(folder) if local else name, {"dtype": dtype or auto}
    if device.type == "cuda":
        told["device_map"] = {"": device}
    if load_in_4bit:
        told["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=told["dtype"],
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **told)
    except (OSError, ValueError) as error:
        raise InputError(
            "this language model is neither a folder here nor to be had from the Hugging Face hub",
            file=short_path(Path(source)) if local else None,
            place="language_model",
            given=name,
            hint=f"transformers says: {str(error).splitlines()[0]}",
        ) from error
    return tokenizer, model.eval()


def free_memory() -> None:
    """Give back what no name holds any longer (``del`` it first): Python's cycles, and what torch keeps of a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

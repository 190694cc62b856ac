"""Load a causal language model with its tokenizer, weights verified."""

import gc
import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from helpers.course.checksums import verify_where_listed
from helpers.course.errors import InputError
from helpers.course.files import repository_path, short_path
from helpers.course.machine import chosen_dtype, torch_device
from helpers.course.quiet import quiet


def load_language_model(
    name: str | Path, dtype: torch.dtype | str = "auto", *, load_in_4bit: bool = False
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model in evaluation mode, on the GPU where there is one.

    `name` is a folder of the repository or a name on the model hub. Weights must be safetensors, are verified where
    SHA256SUMS lies beside them, and are held in ``dtype``, read straight into it: torch's or its name; ``auto``: bfloat16
    where the device computes it itself, else float16 on a GPU and float32 on a CPU; ``stored``: as the files hold them.
    ``load_in_4bit``: as QLoRA and Unsloth do it (NF4, quantised twice). A GPU is filled one tensor after the other: 16 bits
    of a 7B model are more than the main memory of a small machine. Raises InputError when there is no such model or a file
    of it is damaged.
    """
    quiet()
    folder = repository_path(name)
    local = folder.is_dir()
    verify_where_listed(folder)
    device = torch_device()
    source = str(folder) if local else str(name)
    told = {"dtype": {"auto": chosen_dtype(), "stored": "auto"}.get(dtype, dtype)}  # "auto" of transformers: the files'
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
        tokenizer = load_tokenizer(source)
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


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of a name on the model hub.

    A folder that names the plain class gets it at once: the search for another class imports mistral_common, which
    takes three quarters of the time to a small model's first word. Raises OSError or ValueError as transformers does.
    """
    file = Path(source) / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    plain = told.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if plain else AutoTokenizer).from_pretrained(source)


def free_memory() -> None:
    """Give back what no name holds any longer (``del`` it first): Python's cycles, and what torch keeps of a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

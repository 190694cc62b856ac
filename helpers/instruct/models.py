"""Load a causal language model with its tokenizer, weights verified."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from helpers.course.checksums import SUMS_FILE, verify_checksums
from helpers.course.errors import InputError
from helpers.course.files import repository_path, short_path
from helpers.course.machine import detect_machine, torch_device
from helpers.course.quiet import quiet


def load_language_model(name: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model in evaluation mode, on the GPU where there is one.

    `name` is a folder of the repository or a name on the model hub. Weights must be safetensors, are verified where
    SHA256SUMS lies beside them, and are held in bfloat16 where the machine computes it itself, else in float16 on a GPU and
    float32 on a CPU. Raises InputError when there is no such model or a file of it is damaged.
    """
    quiet()
    folder = repository_path(name)
    local = folder.is_dir()
    if local and (folder / SUMS_FILE).is_file():
        verify_checksums(folder)
    device = torch_device()
    dtype = torch.bfloat16 if detect_machine().bf16 else torch.float16 if device.type == "cuda" else torch.float32
    source = str(folder) if local else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(
            "this language model is neither a folder here nor to be had from the Hugging Face hub",
            file=short_path(Path(source)) if local else None,
            place="language_model",
            given=name,
            hint=f"transformers says: {str(error).splitlines()[0]}",
        ) from error
    return tokenizer, model.to(device).eval()

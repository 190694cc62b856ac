"""The two lines of Unsloth that export a model, as a command.

python -m helpers.instruct.unsloth_export ADAPTER FOLDER METHOD...
"""

import sys
from pathlib import Path

from helpers.instruct.unsloth_first import chosen_dtype, fast_language_model


def main(adapter: str, folder: str, *methods: str) -> None:
    """Load the adapter over its base and write each export to ``folder/method``, prompt.json beside it."""
    unsloth = fast_language_model()
    from helpers.instruct.prompts import Prompt

    model, tokenizer = unsloth.from_pretrained(adapter, dtype=chosen_dtype("auto"), load_in_4bit=False)
    for method in methods:
        target = Path(folder) / method
        model.save_pretrained_merged(str(target), tokenizer, save_method=method)
        Prompt.load(adapter).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])

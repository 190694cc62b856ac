"""The two lines of Unsloth that export a model, as a command.

python -m helpers.instruct.unsloth_export ADAPTER FOLDER METHOD...
"""

import sys
from pathlib import Path

from helpers.course.machine import chosen_dtype
from helpers.instruct.unsloth_first import fast_language_model


def main(adapter: str, folder: str, *methods: str) -> None:
    """Load the adapter over its base and write each export to ``folder/method``, prompt.json beside it."""
    fast_language_model()
    from helpers.instruct.adapters import base_of, by_unsloth
    from helpers.instruct.prompts import Prompt

    prompt = Prompt.load(adapter)
    model = by_unsloth(base_of(adapter), adapter, dtype=chosen_dtype("auto"), load_in_4bit=False)
    for method in methods:
        target = Path(folder) / method
        model.save_pretrained_merged(str(target), prompt.tokenizer, save_method=method)
        prompt.save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])

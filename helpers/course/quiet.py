"""No progress bars and no load reports in what a notebook stores: they are noise on a page and differ at every run."""

import os
import sys

BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def quiet() -> None:
    """Switch off the bars and load reports of the Hugging Face libraries; their errors are still shown.

    Call it before a model is loaded; calling it again costs nothing. ``COURSE_BARS=1`` in the environment keeps the bars,
    for long downloads.
    """
    if os.environ.get("COURSE_BARS") == "1":
        return
    for name, value in BARS.items():
        os.environ.setdefault(name, value)
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if "datasets" in sys.modules:  # it reads the variable only when it is imported
        sys.modules["datasets"].disable_progress_bars()

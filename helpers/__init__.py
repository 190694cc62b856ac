"""Machinery behind the notebooks: four wings over one ground floor.

Arrows run down only: ``serving`` > ``embedding`` | ``instruct`` > ``data`` > ``course``.
"""

import logging
import os

# Read when torch is loaded, so it stands here. By default a thread of torch's waits for the others in a long busy loop;
# beside one more busy process on two cores a lesson took seven times as long. A value in the environment stands.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# peft imports bitsandbytes, which warns on every CPU of a kernel that only 4-bit models on a GPU would use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

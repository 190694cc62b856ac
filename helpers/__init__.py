"""Machinery behind the notebooks: four wings over one ground floor.

Arrows run down only: ``serving`` > ``embedding`` | ``instruct`` > ``data`` > ``course``.
"""

import logging

# peft imports bitsandbytes, which warns on every CPU of a kernel that only 4-bit models on a GPU would use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

"""Machinery behind the notebooks: four wings over one ground floor.

Arrows run down only: ``serving`` > ``embedding`` | ``instruct`` > ``data`` > ``course``.
"""

import logging
import os

# These are read when torch is loaded, so they stand here. A value in the environment stands.
# By default a thread of torch's waits for the others in a long busy loop; beside one more busy process on two cores a lesson
# took seven times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# By default oneDNN keeps the kernels of the last 1,024 shapes that it met, in two caches. Texts of many lengths are as many
# shapes: in bfloat16 a training run on a CPU grew by 75 MB a step.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
# torch then begins tensors of 2 MB and more at whole multiples of 2 MB. Chunks of texts of many lengths are tensors of many
# sizes, and without it the freed ones fit no other: the gradient cache held 0.7 GB at a batch of 1,024 where 0.4 do.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# peft imports bitsandbytes, which warns on every CPU of a kernel that only 4-bit models on a GPU would use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

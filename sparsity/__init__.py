"""A bench for pruning causal language models.

Importing it asks torch to take large tensors on the CPU from pages of 2 MiB, where Linux lends them to whoever asks: most of what a
forward pass allocates is used once, and its first touch costs a fault for every page. THP_MEM_ALLOC_ENABLE=0 leaves torch as it is.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read when the first large tensor is made

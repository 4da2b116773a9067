"""A laboratory bench for pruning causal language models. The docstring of each room (subpackage) says what it holds.

Importing the package makes torch allocate large CPU tensors in pages of 2 MiB, if Linux allows it. A forward pass uses most of its
memory only once, and the first use of each page costs a page fault. Set THP_MEM_ALLOC_ENABLE=0 to leave torch unchanged.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it when it allocates the first large tensor

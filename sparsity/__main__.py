"""python -m sparsity: the command `sparsity-lab`, for `torchrun --nproc-per-node=2 -m sparsity ...`."""

import sys

from .runs.command import main

if __name__ == "__main__":
    sys.exit(main())

"""python run.py method=wanda sparsity=0.5        python run.py --help        python run.py plan=true

The program is sparsity/runs/command.py: Hydra composes conf/, and sparsity/runs/ does the rest. `pip install .` gives the same
program the name `sparsity-lab`.
"""

import sys

from sparsity.runs.command import main

if __name__ == "__main__":
    sys.exit(main())

"""python -m sparsity.report outputs/correctors outputs/propagation [--into DIR]: compare finished runs.

Reads every run in and below the folders, and writes report.html, report.md and report.csv.
"""

from __future__ import annotations

import sys

from .build import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

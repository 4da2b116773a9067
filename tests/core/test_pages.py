"""Large tensors lie in large pages, where Linux lends them to whoever asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LENT = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MIB = 64
FAULTS = f"""
import resource
import torch
import sparsity
torch.ones(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones({MIB} * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**variables: str) -> int:
    """How often the first touch of a tensor of so many MiB waited for a page."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"} | variables
    return int(subprocess.check_output([sys.executable, "-c", FAULTS], env=environment, text=True))


@pytest.mark.skipif(not LENT.exists() or "[madvise]" not in LENT.read_text(), reason="no pages on request")
def test_importing_asks_for_large_pages_and_leaves_a_refusal_alone():
    small = MIB * 256  # pages of 4 KiB
    assert faults() < small / 4
    assert faults(THP_MEM_ALLOC_ENABLE="0") > small / 2

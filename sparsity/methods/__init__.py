"""Which weights survive, one method a file: write one, give it a yaml in conf/method, and the contract test grades it."""

from .dense import Dense
from .magnitude import Magnitude
from .sparsegpt import SparseGPT
from .wanda import Wanda

__all__ = ["Dense", "Magnitude", "SparseGPT", "Wanda"]

"""Which weights survive, one method a file: write one, give it a yaml in conf/method, and the contract test grades it."""

from .admm import ADMM
from .alps import ALPS
from .dense import Dense
from .dsnot import DSnoT
from .magnitude import Magnitude
from .neuronrank import NeuronRank
from .neuronrank_old import NeuronRankOld
from .pursuit import Pursuit
from .ria import RIA
from .route import Route
from .sparsegpt import SparseGPT
from .successor import Successor
from .swaps import Swaps
from .tfidf import TfIdf
from .wanda import Wanda

__all__ = [
    "ADMM",
    "ALPS",
    "RIA",
    "DSnoT",
    "Dense",
    "Magnitude",
    "NeuronRank",
    "NeuronRankOld",
    "Pursuit",
    "Route",
    "SparseGPT",
    "Successor",
    "Swaps",
    "TfIdf",
    "Wanda",
]

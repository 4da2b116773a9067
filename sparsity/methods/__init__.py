"""The pruning methods, one per file. To add one, write it and give it a yaml in conf/method; the contract test then checks it."""

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

"""Which calibration tokens belong together: the rows of a neuron-by-row matrix, as NeuronRank's TF-IDF needs it."""

from .documents import Documents
from .topics import Topics, Window

__all__ = ["Documents", "Topics", "Window"]

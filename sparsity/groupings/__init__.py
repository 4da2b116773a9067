"""The groupings of calibration tokens into rows (documents or topics), for statistics per row such as NeuronRank's TF-IDF."""

from .documents import Documents
from .topics import Topics, Window

__all__ = ["Documents", "Topics", "Window"]

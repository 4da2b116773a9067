"""The sources of the calibration and evaluation text, and the token ids of both."""

from sparsity.datasets.base import TextSource as TextSource
from sparsity.datasets.files import TextFiles as TextFiles
from sparsity.datasets.hub import HubText as HubText
from sparsity.datasets.pydocs import PyDocs as PyDocs
from sparsity.datasets.tokens import sample as sample
from sparsity.datasets.tokens import sample_apart as sample_apart
from sparsity.datasets.tokens import tokenise as tokenise
from sparsity.datasets.tokens import windows as windows

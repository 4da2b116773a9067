"""Topics: one clustering of the whole calibration text. It depends on no layer, so topic 7 is the same in every block.

Each sequence is cut into windows of consecutive tokens (the last one may be shorter; none crosses a sequence). A window's vector is
the mean of its token embeddings, minus the mean over all windows (embeddings share a large common direction), projected at random
to 128 dimensions (Johnson-Lindenstrauss: angles are preserved) and scaled to length 1. On the unit sphere
||a - b||^2 = 2 - 2 cos(a, b), so k-means groups windows by the angle between them. A token has the topic of its window. Projection
and k-means come from scikit-learn.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ..ranges import Count, Range, checked

log = logging.getLogger(__name__)

PROJECTED = 128  # dimensions
Window = Annotated[int, Range(least=1, cap=2**20, such=32)]


@dataclass(frozen=True)
@checked
class Topics:
    """The grouping by topic: `num_topics` clusters of windows of `window` tokens."""

    num_topics: Count
    window: Window  # tokens
    seed: Annotated[int, Range(least=0, below=2**32, such=0)]  # of the projection and of the clusters' starting points

    def rows(self, sequences: int, seqlen: int) -> int:
        return min(self.num_topics, sequences * -(-seqlen // self.window))

    def labels(self, ids_BT: Tensor, embedding_VE: Tensor) -> Tensor:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.preprocessing import normalize
        from sklearn.random_projection import GaussianRandomProjection

        windows_NE = self._windows(ids_BT, embedding_VE)
        found = self.rows(*ids_BT.shape)
        if found < self.num_topics:
            log.info("topics: %d asked, %d windows of %d tokens: %d topics", self.num_topics, found, self.window, found)
        width = windows_NE.shape[1]
        if width > PROJECTED:
            windows_NE = GaussianRandomProjection(PROJECTED, random_state=self.seed).fit_transform(windows_NE)
        kmeans = KMeans(found, n_init=4, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # it warns of fewer distinct windows than topics: the empty topics are dropped below
            topic_N = kmeans.fit_predict(normalize(windows_NE))
        present, topic_N = np.unique(topic_N, return_inverse=True)
        if len(present) < found:
            log.info("topics: %d of %d are empty and dropped", found - len(present), found)
        B, T = ids_BT.shape
        return torch.from_numpy(topic_N).long().view(B, -1).repeat_interleave(self.window, dim=1)[:, :T]

    def _windows(self, ids_BT: Tensor, embedding_VE: Tensor) -> np.ndarray:
        """The mean embedding of every window, centred (windows, E), float64."""
        means = []
        for ids_BW in ids_BT.split(self.window, dim=1):
            means.append(embedding_VE[ids_BW.to(embedding_VE.device)].double().mean(1).cpu())
        windows_NE = torch.stack(means, dim=1).flatten(0, 1)
        centred: np.ndarray = (windows_NE - windows_NE.mean(0)).numpy()
        return centred

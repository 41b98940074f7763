"""One part of the features, and the search over it. A process of its own holds it.

Shapes: N samples of the shard, S sites that live here, Q queries, D features, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from selfilter_ray.select import cosine
from selfilter_ray.select.neighbours.backends import BackendName, build_backend
from selfilter_ray.select.sites import row_digests


class PartFound(NamedTuple):
    """``Found`` of every query in one: candidates in a row, and how many each query has."""

    sites: np.ndarray
    rough: np.ndarray
    count_Q: np.ndarray
    floor_Q: np.ndarray


class FeatureShard:
    """Samples whose features lie here.

    Args:
        features_ND: float32.
    """

    def __init__(self, features_ND: np.ndarray, backend: BackendName = "exact") -> None:
        self._features_ND = np.ascontiguousarray(features_ND, np.float32)
        self._backend_name = backend

    def digests(self) -> list[bytes]:
        """Of every sample, see ``select.sites``."""
        return row_digests(self._features_ND)

    def keep(self, samples: np.ndarray, sites: np.ndarray) -> None:
        """Which samples stand for a site: only they are searched from now on.

        Args:
            samples: row numbers here.
            sites: their numbers in the whole pool, ascending.
        """
        if len(samples) != len(self._features_ND) or not (np.diff(samples) == 1).all():
            self._features_ND = self._features_ND[samples]
        self._sites_S = sites
        self._squares_S = cosine.squares(self._features_ND)
        self._backend = build_backend(self._backend_name, self._features_ND, self._squares_S)
        self.margin = self._backend.margin

    def vectors(self, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (Q, D) and squared lengths (Q,) of sites that live here."""
        rows = np.searchsorted(self._sites_S, sites)
        return self._features_ND[rows], self._squares_S[rows]

    def nearest(self, query_QD: np.ndarray, count: int, alive: np.ndarray) -> PartFound:
        """As ``Search.nearest`` over this shard.

        Args:
            query_QD: float32 unit rows.
            alive: bits of this shard's sites, packed.
        """
        alive_S = np.unpackbits(alive, count=len(self._sites_S)).astype(bool)
        found = self._backend.nearest_to(query_QD, count, alive_S)
        return PartFound(
            self._sites_S[np.concatenate([one.sites for one in found])],
            np.concatenate([one.rough for one in found]),
            np.array([len(one.sites) for one in found]),
            np.array([one.floor for one in found]),
        )

    def cosines(
        self, query_QD: np.ndarray, square_Q: np.ndarray, query_P: np.ndarray, site_P: np.ndarray
    ) -> np.ndarray:
        """(P,) float64 by ``select.cosine``, of the given queries with sites that live here."""
        bounds = np.searchsorted(query_P, np.arange(len(query_QD) + 1))
        parts = [
            cosine.cosines(query_D, float(square), *self.vectors(site_P[start:stop]))
            for query_D, square, start, stop in zip(
                query_QD, square_Q, bounds[:-1], bounds[1:], strict=True
            )
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

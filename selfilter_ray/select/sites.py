"""Samples with the same features, as one place in space.

The neighbour search runs over distinct rows ("sites"), so a crowd of exact duplicates costs no more
than one of them. Shapes: N samples, U sites.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sites:
    """Which samples stand at which site.

    Attributes:
        first_U: int64, the first sample of each site; sites stand in this order.
        site_N: int64, the site of each sample.
        members: int64 (N,), the samples of all sites one after the other, ascending in each.
        start: int64 (U + 1,), where each site's members begin.
    """

    first_U: np.ndarray
    site_N: np.ndarray
    members: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, digests: list[bytes]) -> Sites:
        """Group samples by the digests of their rows."""
        known: dict[bytes, int] = {}
        site_N = np.array([known.setdefault(d, len(known)) for d in digests], np.int64)
        members = np.argsort(site_N, kind="stable").astype(np.int64)
        counts = np.bincount(site_N, minlength=len(known))
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(members[start[:-1]], site_N, members, start)

    @property
    def sizes_U(self) -> np.ndarray:
        """int64, how many samples stand at each site."""
        return np.diff(self.start)

    @property
    def all_distinct(self) -> bool:
        return len(self.first_U) == len(self.site_N)

    def members_of(self, site: int) -> np.ndarray:
        """The samples of one site, ascending."""
        return self.members[self.start[site] : self.start[site + 1]]


def row_digests(features_ND: np.ndarray) -> list[bytes]:
    """One digest a row, equal for rows of the same bytes."""
    return [hashlib.blake2b(row, digest_size=16).digest() for row in features_ND]

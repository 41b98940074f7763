"""The k nearest remaining samples of a pick, from candidates searched ahead of time.

One product for many samples costs far less than one each, so whenever a pick has no candidates yet,
those next in line get theirs with it. Candidates stay valid while samples leave: what was near
stays as near, and when too many of them are gone the search is made again, wider.

Shapes: N samples, U sites, C candidates, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfilter_ray.select.neighbours.search import Found, Search
from selfilter_ray.select.sites import Sites

# Candidates asked for at first, a neighbour wanted; and how many more when they run out.
CANDIDATES = 6
AT_LEAST = 32
WIDER = 4
OFTEN = 0.01
QUERIES_AT_ONCE = 512
# Numbers that one batch of searches may return, lest a large k fills the memory.
NUMBERS_AT_ONCE = 2**22


class Nearest:
    """Keeps candidates by site, and knows which samples are left.

    Args:
        next_in_line: the samples most likely to be picked soon, given how many.
    """

    def __init__(
        self, search: Search, sites: Sites, k: int, next_in_line: Callable[[int], np.ndarray]
    ) -> None:
        self.search, self.sites, self.k = search, sites, k
        self.next_in_line = next_in_line
        self.remaining_N = np.ones(len(sites.site_N), bool)
        self.left = len(sites.site_N)
        self.left_U = sites.sizes_U.copy()
        self.searched = 0
        self._again = 0
        self._count = min(max(CANDIDATES * k, AT_LEAST), len(self.left_U))
        self._found: dict[int, Found] = {}

    def leave(self, sample: int) -> None:
        """It is picked: nobody's neighbour any more."""
        site = self.sites.site_N[sample]
        self.remaining_N[sample] = False
        self.left_U[site] -= 1
        self.left -= 1

    def of(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples, nearest first (ties: first by number), and their float64 cosines."""
        wanted = min(self.k, self.left)
        if wanted == 0:
            return np.zeros(0, np.int64), np.zeros(0)
        site = int(self.sites.site_N[sample])
        if site not in self._found:
            self._look_ahead(site)
        close = self._close(self._found[site], wanted)
        count = self._count
        while close is None:
            count = min(count * WIDER, len(self.left_U))
            self._found[site] = self._search_wider(site, count)
            close = self._close(self._found[site], wanted)
        cosines = self.search.cosines(site, close)
        if self.left_U[site] == 0:
            del self._found[site]
        return self._samples(close, cosines, wanted)

    def _close(self, found: Found, wanted: int) -> np.ndarray | None:
        """The candidates that can be among the nearest; None when others can be, too."""
        left_C = self.left_U[found.sites]
        alive_C = left_C > 0
        sites, rough, left_C = found.sites[alive_C], found.rough[alive_C], left_C[alive_C]
        reach_C = np.cumsum(left_C)
        if len(reach_C) == 0 or reach_C[-1] < wanted:
            # A search that leaves nothing out has said all it can.
            return sites if found.floor == -np.inf else None
        limit = float(rough[np.searchsorted(reach_C, wanted)]) - 2.0 * self.search.margin
        if not found.floor < limit and not self.search.approximate:
            return None
        close: np.ndarray = sites[rough >= limit]
        return close

    def _samples(
        self, sites: np.ndarray, cosines: np.ndarray, wanted: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.sites.all_distinct:
            samples = self.sites.first_U[sites]
        else:
            # No more than ``wanted`` of equal samples can be neighbours: the first of them.
            groups = [self._members(int(site))[:wanted] for site in sites]
            samples = np.concatenate(groups) if groups else np.zeros(0, np.int64)
            cosines = np.repeat(cosines, [len(group) for group in groups])
        order = np.lexsort((samples, -cosines))[:wanted]
        return samples[order], cosines[order]

    def _members(self, site: int) -> np.ndarray:
        members = self.sites.members_of(site)
        return members[self.remaining_N[members]]

    def _look_ahead(self, site: int) -> None:
        """Search for a site and for those of the samples next in line, all at once."""
        queries = max(1, min(QUERIES_AT_ONCE, NUMBERS_AT_ONCE // self._count))
        ahead = self.sites.site_N[self.next_in_line(queries - 1)].tolist()
        unknown = [other for other in dict.fromkeys([site, *ahead]) if other not in self._found]
        found = self._search(np.array(unknown, np.int64), self._count)
        self._found.update(zip(unknown, found, strict=True))

    def _search_wider(self, site: int, count: int) -> Found:
        """Once more for one site. Where that happens often, ask for more at once from now on."""
        self._again += 1
        if self._again > OFTEN * self.searched:
            self._count, self._again = min(2 * self._count, len(self.left_U)), 0
        return self._search(np.array([site]), count)[0]

    def _search(self, sites: np.ndarray, count: int) -> list[Found]:
        self.searched += len(sites)
        return self.search.nearest(sites, count, self.left_U > 0)

"""Random numbers that belong to a sample: a hash of seed, purpose and id.

A draw made from them depends neither on the order of the input nor on the other samples nor on the
version of a library, and two purposes of one seed are independent.

Shapes: N samples.
"""

from __future__ import annotations

import hashlib

import numpy as np


def random_numbers(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """(N,) uint64, uniform, one for each id."""
    begun = hashlib.blake2b(f"{seed}:{purpose}:".encode(), digest_size=8)
    numbers = np.empty(len(ids), dtype=np.uint64)
    for row, id in enumerate(ids):
        hashed = begun.copy()
        hashed.update(str(id).encode("utf-8", "surrogatepass"))
        numbers[row] = int.from_bytes(hashed.digest(), "big")
    return numbers


def random_order(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """(N,) int64, all rows in random order; equal numbers stay in the order of the rows."""
    return np.argsort(random_numbers(ids, seed, purpose), kind="stable")


def random_rank(ids: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """(N,) int64, the place of each row in ``random_order``."""
    order = random_order(ids, seed, purpose)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank

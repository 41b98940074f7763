"""The pools by name: what is planted in each, and what a good selector should do with it.

The expectations were written before any method was run on the pools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfilter_ray.errors import ConfigError
from selfilter_ray.known_truth import (
    long_answers,
    mismatched,
    near_duplicates,
    trivial,
    wrong_answers,
)
from selfilter_ray.known_truth.entry import Entry, Kind, drawn

Plan = Callable[[Sequence[Entry], int, np.random.Generator], list[Entry]]


@dataclass(frozen=True)
class KnownPool:
    """A kind of pool.

    Attributes:
        name: as users give it.
        data: the data set that it is made from.
        planted: what its faults are called; None where it has none.
        share: of the records that are planted.
        about: what was done, in a sentence.
        expectation: what a good selector should do.
        plan: from clean entries, a number of rows and a generator to the pool's entries.
    """

    name: str
    data: Literal["easy-vqa", "coco_mini"]
    planted: Kind | None
    share: float
    about: str
    expectation: str
    plan: Plan

    def most(self, clean: Sequence[Entry]) -> int:
        """How many rows can be had."""
        if self.planted == "duplicate":
            return round(len(clean) / (1.0 - self.share))
        if self.planted == "trivial":
            made = len(trivial.trivial_entries(clean))
            return int(min(made / self.share, len(clean) / (1.0 - self.share)))
        return len(clean)


def known_pool(name: str) -> KnownPool:
    """The pool of that name.

    Raises:
        ConfigError: when there is none.
    """
    for pool in POOLS:
        if pool.name == name:
            return pool
    names = ", ".join(pool.name for pool in POOLS)
    raise ConfigError(f"there is no pool {name!r} with known truth: take one of {names}.")


POOLS = (
    KnownPool(
        "plain",
        "easy-vqa",
        None,
        0.0,
        "The data as it is: 74 % of the questions are answered by yes or no, the others by a shape "
        "or a color.",
        "Records are nearly alike in worth, so random is hard to beat and no method should be far "
        "below it. What can be gained is balance: colors and shapes are rarer and harder than yes "
        "and no. A method that keeps only what is hardest at one moment keeps one type of question "
        "and loses on the others.",
        drawn,
    ),
    KnownPool(
        "wrong-answers",
        "easy-vqa",
        "wrong_answer",
        wrong_answers.SHARE,
        "One record in five has a wrong answer of the right type.",
        "Keep fewer wrong answers than random does (20 %), and so beat random. Wrong answers have "
        "the highest loss under a model that has learned something: a method that keeps the "
        "hardest keeps more of them than random and loses to it, unless what stays hard while "
        "others are learned is told apart from what is hard and learnable.",
        wrong_answers.with_wrong_answers,
    ),
    KnownPool(
        "near-duplicates",
        "easy-vqa",
        "duplicate",
        near_duplicates.SHARE,
        "Half of the records are near copies, about ten of each of a tenth of the originals: the "
        "picture shifted, tinted and noisy, the question in the same or in other words.",
        "Take about one record of each group of copies, so that a given number of records covers "
        "more different ones than random does, and beat random a little at small budgets. Methods "
        "with a term for diversity should, those that only rank should not: copies have nearly the "
        "score of their original, so that whole groups are taken or left.",
        near_duplicates.with_near_duplicates,
    ),
    KnownPool(
        "trivial",
        "easy-vqa",
        "trivial",
        trivial.SHARE,
        "Nine records in ten ask whether there is a shape at all, which is always so.",
        "Take far fewer trivial records than nine in ten; a few are enough. Here there is most to "
        "gain: 15 % of the pool has room for all that is not trivial, so that the accuracy of the "
        "whole pool can be reached. Methods that keep what is hard should win clearly; a draw "
        "stratified by source cannot, since sources are shared.",
        trivial.mostly_trivial,
    ),
    KnownPool(
        "long-answers",
        "easy-vqa",
        "long_answer",
        long_answers.SHARE,
        "Three answers in ten are replaced by two to four sentences drawn at random from a few "
        "words, which say nothing.",
        "Keep fewer long answers than random does (30 %), and so beat random. Difficulty by the "
        "summed loss takes length for worth and keeps long answers first; the mean loss does so "
        "less, since every token of them stays uncertain. What compares the loss with and without "
        "the picture should see that the picture tells nothing of them.",
        long_answers.with_long_answers,
    ),
    KnownPool(
        "mismatched-captions",
        "coco_mini",
        "mismatched",
        mismatched.SHARE,
        "Photographs with human captions, three in ten of which are captions of another "
        "photograph of the pool. The photographs of the held-out set are others.",
        "Keep fewer mismatched pairs than random does (30 %). A score of how well picture and "
        "text agree should find them; the loss alone hardly, since the captions are good English. "
        "With a few hundred records of five captions a photograph, intervals will be wide.",
        mismatched.with_mismatched,
    ),
)

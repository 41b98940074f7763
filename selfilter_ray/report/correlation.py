"""The rank correlations of the difficulty, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfilter_ray.report import figures

WARN_ABOVE = 0.5


@dataclass(frozen=True, slots=True)
class Correlations:
    """Spearman correlations of the difficulty, None where they are not known."""

    answer_length: float | None
    loss: float | None
    averaged: bool

    @property
    def sentence(self) -> str:
        """What the correlation with the answer length means."""
        rho = self.answer_length
        if rho is None:
            return "The rank correlation with the answer length is not known."
        number = f"Spearman {figures.correlation(rho)}"
        if abs(rho) < 0.1:
            return f"Difficulty and answer length are practically unrelated ({number})."
        longer = "longer" if rho > 0 else "shorter"
        return f"{_strength(abs(rho))}: harder records tend to have {longer} answers ({number})."

    @property
    def warning(self) -> Markup:
        """A plain warning when difficulty is mostly answer length; empty otherwise."""
        if self.answer_length is None or abs(self.answer_length) <= WARN_ABOVE:
            return Markup()
        if self.averaged:
            return Markup(
                "Difficulty follows answer length, although <code>train.loss_reduction</code> is "
                "already mean. Look at the contact sheets before you trust the ranking."
            )
        return Markup(
            "Difficulty follows answer length: choosing by it is close to choosing by length. "
            "Train again with <code>train.loss_reduction: mean</code> to take the length out."
        )


def correlations(manifest: Mapping[str, Any]) -> Correlations:
    """Read them from the manifest of a run, any part of which may be missing."""
    found = section(section(manifest, "stages"), "train").get("correlations")
    found = found if isinstance(found, Mapping) else {}
    training = section(section(manifest, "config"), "train")
    return Correlations(
        answer_length=_number(found.get("difficulty_answer_length")),
        loss=_number(found.get("difficulty_loss")),
        averaged=training.get("loss_reduction") == "mean",
    )


def section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a manifest; empty when it is missing."""
    part = tree.get(name)
    return part if isinstance(part, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if figures.is_number(value) else None


def _strength(size: float) -> str:
    for above, word in ((0.7, "Very strong"), (0.5, "Strong"), (0.3, "Moderate")):
        if size > above:
            return f"{word} relation"
    return "Weak relation"

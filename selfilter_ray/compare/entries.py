"""What takes part in a comparison: a method under its settings, with a name of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfilter_ray.compare.settings import method_settings
from selfilter_ray.errors import ConfigError
from selfilter_ray.select.contract import Pool
from selfilter_ray.select.registry import METHODS, needs_of
from selfilter_ray.select.settings import MethodSettings

REFERENCE = "random"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the comparison.

    Attributes:
        label: its name, unlike all others.
        method: name of the method.
        settings: of that method.
        title: what the method is, for people.
    """

    label: str
    method: str
    settings: MethodSettings
    title: str = ""


def entries_of(methods: Sequence[Mapping[str, Any]] | None, pool: Pool) -> list[Entry]:
    """The entries that ``compare.methods`` asks for, in its order.

    Args:
        methods: as ``CompareConfig`` holds them; None for every method of the registry whose needs
            are met.
        pool: what is known of its samples decides which those are.

    Raises:
        ConfigError: when two entries have one label.
    """
    if methods is None:
        made = [_entry({"method": name}) for name in METHODS]
        return [entry for entry in made if _is_met(entry, pool)]
    entries = [_entry(method) for method in methods]
    taken = Counter(entry.label for entry in entries)
    repeated = [label for label, times in taken.items() if times > 1]
    if repeated:
        raise ConfigError(
            f"compare.methods has more than one entry named {repeated[0]!r}: give each a label."
        )
    return entries


def with_reference(entries: Iterable[Entry]) -> tuple[list[Entry], Entry]:
    """The entries, with uniform random selection among them, and which one that is."""
    known = list(entries)
    uniform = method_settings({"method": REFERENCE})
    for entry in known:
        if entry.method == REFERENCE and entry.settings == uniform:
            return known, entry
    labels = {entry.label for entry in known}
    label = REFERENCE if REFERENCE not in labels else f"uniform {REFERENCE}"
    reference = Entry(label, REFERENCE, uniform, _title(REFERENCE))
    return [*known, reference], reference


def _entry(mapping: Mapping[str, Any]) -> Entry:
    settings, method = method_settings(mapping), str(mapping["method"])
    label = mapping.get("label")
    return Entry(label or _label(method, settings), method, settings, _title(method))


def _label(method: str, settings: MethodSettings) -> str:
    """The method's name and whatever differs from its defaults: ``el2n keep=middle``."""
    changed = [
        f"{name}={getattr(settings, name)}"
        for name, field in type(settings).model_fields.items()
        if name != "method"
        and getattr(settings, name) != field.get_default(call_default_factory=True)
    ]
    return " ".join([method, *changed])


def _title(method: str) -> str:
    return METHODS[method].title


def _is_met(entry: Entry, pool: Pool) -> bool:
    needs = needs_of(entry.settings)
    whole = {name for name, value_N in pool.columns.items() if np.isfinite(value_N).all()}
    partly = {name for name, value_N in pool.columns.items() if np.isfinite(value_N).any()}
    return (
        whole.issuperset(needs.columns)
        and partly.issuperset(needs.columns_with_gaps)
        and (pool.features_ND is not None or not needs.features)
    )

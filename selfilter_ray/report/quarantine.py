"""The records that could not be used, by reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfilter_ray.report.figures import is_number

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One quarantined record."""

    locator: str
    id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reason:
    """All records with one reason, and what to do about them."""

    name: str
    count: int
    remedy: str
    examples: tuple[Example, ...]


def quarantine_reasons(path: Path, counts: Mapping[str, Any]) -> list[Reason]:
    """Reasons, most frequent first: from the file, or without it from the manifest's ``counts``."""
    found: Counter[str] = Counter()
    first: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(path):
        name = str(line.get("reason") or "unknown")
        found[name] += 1
        examples = first.setdefault(name, [])
        if len(examples) < EXAMPLES:
            examples.append(line)
    if not found:
        found.update({name: int(value) for name, value in counts.items() if is_number(value)})
    ordered = sorted(found, key=lambda name: (-found[name], name))
    return [_reason(name, found[name], first.get(name, [])) for name in ordered if found[name]]


def _reason(name: str, count: int, lines: list[dict[str, Any]]) -> Reason:
    remedies = [str(line["remedy"]) for line in lines if line.get("remedy")]
    examples = tuple(
        Example(*(str(line.get(key) or "") for key in ("locator", "id", "detail")))
        for line in lines
    )
    return Reason(name, count, remedies[0] if remedies else "", examples)


def _lines(path: Path) -> Any:
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line

"""The stored evidence as tables and a plot: written into docs/evidence.md and docs/evidence.svg.

Tables stand between ``<!-- POOL -->`` and ``<!-- end -->``; the rest of the file is left alone.

    python -m benchmarks.evidence_tables [--check]

``--check`` writes nothing, and fails where the documents say something else.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.store import RESULTS
from selfilter_ray.compare.trained.cells import YARDSTICKS
from selfilter_ray.compare.trained.result import TrainedComparison
from selfilter_ray.compare.trained.statistics import Estimate
from selfilter_ray.compare.trained.terminal_table import shown

DOCUMENT, PLOT = Path("docs/evidence.md"), Path("docs/evidence.svg")
PLOTTED = 0.15  # share of the pool that the plot is about
ROW, COLUMN, LABELS, TOP, FOOT, NARROWEST = 22, 190, 190, 58, 44, 620


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence_tables")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = {
        file.stem: json.loads(file.read_text())["measured"]
        for file in sorted((RESULTS / "evidence").glob("*.json"))
    }
    compared = {name: TrainedComparison.from_json(one["trained"]) for name, one in found.items()}
    text = _document(DOCUMENT.read_text(), compared)
    plot = _plot(
        {
            name: one
            for name, one in compared.items()
            if found[name]["pool"]["name"] == name and one.measure == "accuracy"
        }
    )
    for file, content in ((DOCUMENT, text), (PLOT, plot)):
        if not check:
            file.write_text(content)
        elif file.read_text() != content:
            sys.exit(f"{file} is not what the stored results give: run benchmarks.evidence_tables.")


def _document(text: str, compared: dict[str, TrainedComparison]) -> str:
    for name, comparison in compared.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        table = _table(comparison)
        text, found = pattern.subn(lambda match, table=table: match[1] + table + match[2], text)
        if not found:
            sys.exit(f"{DOCUMENT} has no place for {name}: write <!-- {name} --> and <!-- end -->.")
    return text


def _table(comparison: TrainedComparison) -> str:
    """A row a method in the order of the largest budget that all have, and the yardsticks."""
    budgets = comparison.budgets
    planted = comparison.planted_in_pool is not None and comparison.planted_in_pool > 0
    last = max(budgets, key=lambda budget: (_methods_at(comparison, budget), budget))
    heads = ["method", *(f"{100 * b / comparison.rows:.0f} % | to random" for b in budgets)]
    if planted:
        heads.append(f"planted in {100 * last / comparison.rows:.0f} %")
    head = " | ".join(heads)
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for label in sorted(comparison.labels, key=lambda label: _rank(comparison, label, last)):
        cells = [label]
        for budget in budgets:
            outcome = comparison.outcome(label, budget)
            if outcome is None:
                cells += ["", ""]
                continue
            difference = outcome.to_random[comparison.measure]
            text = shown(comparison, difference, sign=True)
            cells += [
                shown(comparison, comparison.main(outcome)),
                f"**{text}**" if difference.apart else text,
            ]
        if planted:
            outcome = comparison.outcome(label, last)
            share = None if outcome is None else outcome.planted.mean
            cells.append("" if share is None else f"{100 * share:.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    whole = [
        f"{label} {shown(comparison, comparison.main(outcome))}"
        for label in YARDSTICKS.values()
        if (outcome := comparison.outcome(label)) is not None
    ]
    share = f" Planted in the pool: {100 * (comparison.planted_in_pool or 0):.0f} %." * planted
    note = f"{comparison.rows:,} records; {len(comparison.seeds)} seeds; {'; '.join(whole)}.{share}"
    return "\n".join([*lines, "", note, ""])


def _methods_at(comparison: TrainedComparison, budget: int) -> int:
    return sum(comparison.outcome(label, budget) is not None for label in comparison.labels)


def _rank(comparison: TrainedComparison, label: str, budget: int) -> float:
    outcome = comparison.outcome(label, budget)
    mean = None if outcome is None else comparison.main(outcome).mean
    return float("inf") if mean is None else -comparison.worth_more * mean


def _plot(compared: dict[str, TrainedComparison]) -> str:
    """Difference to random of every method, a column a pool, with its interval."""
    labels = list(dict.fromkeys(label for one in compared.values() for label in one.labels))
    differences = {
        (name, label): estimate
        for name, one in compared.items()
        for label in labels
        if (estimate := _difference(one, label)) is not None
    }
    labels = sorted(
        {label for _, label in differences},
        key=lambda label: -_mean([e for (_, other), e in differences.items() if other == label]),
    )
    ends = [abs(e.mean or 0.0) + (e.half or 0.0) for e in differences.values()]
    reach = max(ends, default=0.1) * 1.05
    share = max(COLUMN, (NARROWEST - LABELS) // max(1, len(compared)))  # of a column
    width, height = LABELS + share * len(compared) + 10, TOP + ROW * len(labels) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13">',
        "<style>text{fill:#1c2330}.s{fill:#5d6678}.z{stroke:#8a93a5}.g{stroke:#e3e6ee}"
        ".up{stroke:#1f7a5c;fill:#1f7a5c}.down{stroke:#b3402a;fill:#b3402a}"
        ".even{stroke:#8a93a5;fill:#8a93a5}"
        "@media(prefers-color-scheme:dark){text{fill:#e8ebf2}.s{fill:#a3acbd}.g{stroke:#333a48}"
        ".up{stroke:#5cc9a7;fill:#5cc9a7}.down{stroke:#ef8f8f;fill:#ef8f8f}}</style>",
        f'<text x="0" y="18" font-weight="600">Accuracy beyond random selection, in points, '
        f"{100 * PLOTTED:.0f} % chosen, 95 % intervals</text>",
    ]
    for row, label in enumerate(labels):
        y = TOP + ROW * (row + 0.5)
        parts.append(f'<text x="0" y="{y + 4:.0f}">{escape(label)}</text>')
        parts.append(f'<line class="g" x1="{LABELS}" x2="{width}" y1="{y}" y2="{y}"/>')
    for column, name in enumerate(compared):
        middle, scale = LABELS + share * (column + 0.5), (share / 2 - 12) / reach
        title = f'x="{middle}" y="{TOP - 14}" text-anchor="middle"'
        parts.append(
            f'<text class="s" {title}>{escape(name)}</text>'
            f'<line class="z" x1="{middle}" x2="{middle}" y1="{TOP - 6}" y2="{height - FOOT + 6}"/>'
        )
        for value in (-reach / 1.3, 0.0, reach / 1.3):
            parts.append(
                f'<text class="s" x="{middle + value * scale:.1f}" y="{height - 20}" '
                f'text-anchor="middle">{100 * value:+.0f}</text>'
            )
        for row, label in enumerate(labels):
            estimate = differences.get((name, label))
            if estimate is None or estimate.mean is None:
                continue
            kind = "even" if not estimate.apart else "up" if estimate.mean > 0 else "down"
            y, x = TOP + ROW * (row + 0.5), middle + estimate.mean * scale
            half = (estimate.half or 0.0) * scale
            parts.append(
                f'<line class="{kind}" stroke-width="2" x1="{x - half:.1f}" x2="{x + half:.1f}" '
                f'y1="{y}" y2="{y}"/><circle class="{kind}" cx="{x:.1f}" cy="{y}" r="4"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def _difference(comparison: TrainedComparison, label: str) -> Estimate | None:
    budget = round(PLOTTED * comparison.rows)
    outcome = comparison.outcome(label, budget)
    if outcome is None or label == comparison.reference:
        return None
    estimate = outcome.to_random["accuracy"]
    return None if estimate.mean is None else estimate


def _mean(values: list[Any]) -> float:
    return sum(value.mean or 0.0 for value in values) / max(1, len(values))


if __name__ == "__main__":
    main()

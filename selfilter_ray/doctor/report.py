"""All nodes side by side: what failed, where they disagree, as a table and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

ORDER = (
    "answer",
    "versions",
    "GPU",
    "memory",
    "disk",
    "compiler",
    "clock",
    "run_dir",
    "inputs",
    "images",
    "models",
)
WIDTH = 160  # where the terminal does not say
MARKS = {"ok": "ok", "note": "[yellow]note[/yellow]", "failed": "[red]FAILED[/red]"}


@dataclass(frozen=True)
class Node:
    """A node of the cluster, and what was found there.

    Attributes:
        findings: by check, each with ``state``, ``text`` and ``same``.
    """

    name: str
    address: str
    drives: bool
    findings: dict[str, dict[str, Any]]


def disagreements(nodes: list[Node]) -> list[str]:
    """Facts that are not the same on all nodes, one line each."""
    facts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    answered = [node for node in nodes if "versions" in node.findings]
    for node in answered:
        for finding in node.findings.values():
            for fact, value in finding["same"].items():
                facts[fact][value].append(node.name)
    lines = []
    for fact, values in facts.items():
        if len(values) > 1:
            parts = (f"{value} on {_some(names)}" for value, names in sorted(values.items()))
            lines.append(f"{fact}: {'; '.join(parts)}")
    return lines


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def passed(nodes: list[Node]) -> bool:
    """Whether nothing failed on any node, and all agree."""
    good = all(finding["state"] != "failed" for node in nodes for finding in node.findings.values())
    return good and bool(nodes) and not disagreements(nodes)


def as_json(nodes: list[Node]) -> str:
    """One line."""
    report = {
        "passed": passed(nodes),
        "disagreements": disagreements(nodes),
        "nodes": [asdict(node) for node in nodes],
    }
    return json.dumps(report)


def from_log(log: str) -> list[Node] | None:
    """The report in a job's log; None where there is none."""
    for line in reversed(log.splitlines()):
        if line.startswith('{"passed"'):
            return [Node(**node) for node in json.loads(line)["nodes"]]
    return None


def show(nodes: list[Node]) -> None:
    """Print a table, node x check, and below it what is not well."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    checks = [name for name in ORDER if any(name in node.findings for node in nodes)]
    table = Table(title="Nodes", title_justify="left")
    for column in ("node", *checks):
        table.add_column(column, overflow="fold")
    for node in nodes:
        name = f"{node.name} ({node.address})" + (", driver" if node.drives else "")
        table.add_row(name, *(_cell(node.findings.get(check)) for check in checks))
    console.print(table)
    for node in nodes:
        for check, finding in node.findings.items():
            if finding["state"] != "ok":
                line = f"{node.name}: {check}: {finding['state']}: {finding['text']}"
                console.print(line, markup=False, soft_wrap=True)
    for line in disagreements(nodes):
        console.print(f"nodes disagree on {line}", markup=False, soft_wrap=True)
    console.print("all is well" if passed(nodes) else "not ready for a run")


def _cell(finding: dict[str, Any] | None) -> str:
    if finding is None:
        return "-"
    return str(finding["text"]) if finding["state"] == "ok" else MARKS[finding["state"]]

"""What a check found out on a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from selfilter_ray.errors import SelfilterError

State = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Finding:
    """Attributes:
    state: ``note`` is worth knowing, ``failed`` would end or spoil a run.
    text: short where all is well, else with what to do.
    same: facts that must be equal on all nodes, by name.
    """

    state: State
    text: str
    same: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"state": self.state, "text": self.text, "same": dict(self.same)}


def ok(text: str, **same: str) -> Finding:
    return Finding("ok", text, same)


def note(text: str, **same: str) -> Finding:
    return Finding("note", text, same)


def failed(text: str, **same: str) -> Finding:
    return Finding("failed", text, same)


def tried(check: Callable[[], Finding]) -> Finding:
    """What a check says; an error of any kind is a finding, too."""
    try:
        return check()
    except SelfilterError as error:
        return failed(str(error))
    except Exception as error:  # whatever is wrong is what the user wants to read
        return failed(f"{type(error).__name__}: {error}"[:1000])

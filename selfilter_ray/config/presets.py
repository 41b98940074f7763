"""Settings that go together, by name: a preset fills in what the config does not say itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["paper", "recommended"]

# ``paper``: as the paper and its release have it, for parity (docs/stage1.md says what they mean).
# ``recommended``: what came out best where it could be tried (docs/evidence.md).
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "train": {
            "objective": "selfilter",
            "inputs": "clip",
            "score_net_hidden": (),
            "loss_reduction": "sum",
            "weight_scope": "device",
            "score_net_init": "uniform",
            "score_net_learning_rate": None,
            "epochs": 3,
        },
        "select": {"method": "selfilter", "gamma": 1.0, "k_nearest": 10, "difficulty": "raw"},
    },
    "recommended": {
        "select": {
            "method": "selfilter_grouped",
            "groups": 10,
            "alpha": None,
            "drop_unlearned": 0.25,
        },
    },
}


def with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree, and below what it says the settings of its preset.

    A preset says nothing about a section that names another method or objective than its own.
    """
    name = tree.get("preset")
    filled = dict(tree)
    for section, values in PRESETS.get(name, {}).items() if isinstance(name, str) else ():
        own = tree.get(section, {})
        if isinstance(own, str):  # a method's name
            own = {"method": own}
        if isinstance(own, Mapping) and _of_its_kind(own, values):
            filled[section] = {**values, **own}
    return filled


def _of_its_kind(own: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(own.get(key, values.get(key)) == values.get(key) for key in ("method", "objective"))

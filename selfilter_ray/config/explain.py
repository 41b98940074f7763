"""What is wrong with a config, in words: the wrong key, and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from selfilter_ray.config.root import Config
from selfilter_ray.select.settings import SETTINGS
from selfilter_ray.storage.places import shown


def explain(error: ValidationError, root: type[BaseModel] = Config) -> str:
    """One line for each thing that is wrong with a config of the class ``root``."""
    lines = []
    for item in error.errors():
        path = _field_path(item["loc"])
        where = ".".join(str(part) for part in path) or "config"
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key.{_suggest(path, root)}")
        elif item["type"] == "missing":
            lines.append(f"{where}: missing, it must be given.")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message} (got {_shown(item['input'])})")
    return "config is not valid:\n  " + "\n  ".join(dict.fromkeys(lines))


def _shown(value: object) -> str:
    """The value as it was given, but for secrets of a URI."""
    return repr(shown(value) if isinstance(value, str) else value)


def _field_path(location: Sequence[str | int]) -> list[str | int]:
    """The path as the user wrote it: without the names that pydantic adds for union members."""
    path: list[str | int] = []
    previous: str | int = ""
    for part in location:
        if previous not in _UNION_MEMBERS or part not in _UNION_MEMBERS[previous]:
            path.append(part)
        previous = part
    return path


_UNION_MEMBERS: dict[str | int, frozenset[str]] = {
    "embedder": frozenset({"open_clip", "bundled"}),
    "select": frozenset(SETTINGS),
    "vlm": frozenset({"pretrained", "assembled", "scratch"}),
    "vision": frozenset({"str", "function-after[_whole_patches(), VisionConfig]"}),
    "actors": frozenset({"constrained-int", "tuple[constrained-int, constrained-int]"}),
}


def _suggest(path: Sequence[str | int], root: type[BaseModel]) -> str:
    known = _known_keys(root)
    parent = ".".join(str(part) for part in path[:-1])
    unknown = str(path[-1])
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent]
    elsewhere = [key for key in known if key.rpartition(".")[2] == unknown]
    close = difflib.get_close_matches(unknown, siblings, n=1, cutoff=0.6)
    if elsewhere or close:  # the very name in another section says more than a similar one here
        return f" Did you mean {[*elsewhere, *close][0]}?"
    return f" Known here: {', '.join(sorted(set(siblings)))}." if siblings else ""


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key, in the order of the sections: what a user meets first comes first."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for section in _sections(field.annotation):
            keys += _known_keys(section, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]

"""Models as a node sees them: a folder with the same content everywhere, or a name on a hub."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from selfilter_ray.doctor.finding import Finding, failed, note, ok
from selfilter_ray.doctor.plan import Plan
from selfilter_ray.storage import exists, is_uri, shown
from selfilter_ray.submission.places import PACKAGED

HEAD = 2**20  # bytes of each file that are compared


def check_models(plan: Plan) -> Finding:
    """All models and weights that the config names."""
    notes, problems, same = [], [], {}
    for key, place in (*plan.models, *plan.weights):
        must_be_there = (key, place) in plan.weights
        path = Path(place)
        if place.startswith(PACKAGED):
            continue
        if is_uri(place):
            if not exists(place):
                problems.append(f"{key}: {shown(place)} does not exist")
        elif path.exists():
            same[f"files of {key}"] = fingerprint(path)
        elif path.is_absolute() or must_be_there:
            problems.append(f"{key}: {place} is not on this node: copy it there, or share it")
        elif not _is_cached(place):
            notes.append(f"{key}: {place} is not in this node's cache: it is fetched from its hub")
            if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
                problems.append(f"{key}: {place} is not in the cache, and HF_HUB_OFFLINE is set")
    if problems:
        return failed("; ".join(problems), **same)
    if notes:
        return note("; ".join(notes), **same)
    return ok("there" if same or plan.models else "none needed", **same)


def fingerprint(path: Path) -> str:
    """A short hash over names, sizes and beginnings of a folder's files, or of one file.

    Weights have gigabytes: other weights differ in their first megabyte, or in size.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path) if file != path else file.name
        digest.update(f"{name}:{file.stat().st_size}:".encode())
        with open(file, "rb") as content:
            digest.update(content.read(HEAD))
    return digest.hexdigest()[:16]


def _is_cached(name: str) -> bool:
    """Whether a model of a hub is in this node's cache; a tag of open_clip is not looked up."""
    if "/" not in name:
        return False
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False

"""The same picks under several versions of FAISS, each installed into a folder of its own.

python -m benchmarks.faiss_versions 1.12.0 1.14.1
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.store import store_result

SAMPLES, FEATURES, BUDGET = 20_000, 256, 3_000
CODE = f"""
import faiss
from benchmarks.clip_like import clip_like
from benchmarks.faiss_versions import digest
from selfilter_ray.select import select_diverse
features_MD, difficulty_M = clip_like({SAMPLES}, {FEATURES})
for backend in ("faiss-flat", "exact"):
    print(faiss.__version__, digest(select_diverse(
        features_MD, difficulty_M, {BUDGET}, backend=backend)))
"""


def main() -> None:
    versions = sys.argv[1:]
    found = [line for version in versions for line in _under(version)]
    picks = {digest for _, digest in found}
    store_result(
        "faiss_versions",
        {
            "samples": SAMPLES,
            "features": FEATURES,
            "budget": BUDGET,
            "versions": sorted({version for version, _ in found}),
            "sha256_of_picks": sorted(picks),
            "same": len(picks) == 1,
        },
    )
    if len(picks) != 1:
        raise SystemExit("the picks differ")


def digest(picks) -> str:  # type: ignore[no-untyped-def]
    """Of the picks, their penalties and all neighbours."""
    parts = (picks.indices, picks.difficulty_at_pick, picks.neighbours_BK, picks.similarity_BK)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def _under(version: str) -> list[tuple[str, str]]:
    """(version, digest) of each backend, in a process that sees this FAISS first."""
    with tempfile.TemporaryDirectory() as folder:
        uv = Path(sys.executable).with_name("uv")
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*map(str, install), f"faiss-cpu=={version}"], check=True)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(Path.cwd())])}
        answer = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    found = [tuple(line.split()) for line in answer.stdout.splitlines()]
    if any(said != version for said, _ in found):
        raise SystemExit(f"asked for FAISS {version}, got {found[0][0]}")
    return [(said, digest) for said, digest in found]


if __name__ == "__main__":
    main()

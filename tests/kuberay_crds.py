"""Fetches KubeRay's schemas for test_deploy_kuberay.py: ``python tests/kuberay_crds.py FOLDER``."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

KINDS = ("RayCluster", "RayJob", "RayService")
FILES = tuple(f"ray.io_{kind.lower()}s.yaml" for kind in KINDS)
PLACE = "ray-project/kuberay/v1.7.0/helm-chart/kuberay-operator/crds"


def main(folder: Path, host: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        with urllib.request.urlopen(f"https://{host}/{PLACE}/{name}", timeout=60) as answer:
            (folder / name).write_bytes(answer.read())
        print(folder / name)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python tests/kuberay_crds.py FOLDER [HOST]")
    main(Path(sys.argv[1]), *(sys.argv[2:] or ["raw.githubusercontent.com"]))

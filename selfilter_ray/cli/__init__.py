"""The command line. Each command imports what it needs, so that ``--help`` answers at once.

Exit codes: 0 done, 2 wrong usage or config, 3 wrong data, 1 anything else.
"""

from selfilter_ray.cli import stages, tools, doctor, service, cluster, jobs  # noqa: I001 (order of --help)
from selfilter_ray.cli.app import app, main

__all__ = ["app", "cluster", "doctor", "jobs", "main", "service", "stages", "tools"]

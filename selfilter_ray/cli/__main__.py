"""``python -m selfilter_ray.cli``."""

from selfilter_ray.cli import main

main()

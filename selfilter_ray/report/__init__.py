"""The report of a run: one HTML file that needs nothing else, no network and no script."""

from selfilter_ray.report.build import write_report

__all__ = ["write_report"]

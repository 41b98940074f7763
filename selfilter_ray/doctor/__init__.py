"""``selfilter-ray doctor``: try what a run will need, on this machine or on every node."""

from selfilter_ray.doctor.local import examine

__all__ = ["examine"]

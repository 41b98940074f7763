"""The pool: one record type, its readers, the checks, and what is set aside."""

from selfilter_ray.samples.record import ASSISTANT, SYSTEM, USER, Sample, Turn

__all__ = ["ASSISTANT", "SYSTEM", "USER", "Sample", "Turn"]

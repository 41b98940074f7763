"""Frozen extractors: what the score net and the neighbour search see of a sample."""

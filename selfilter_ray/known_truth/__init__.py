"""Pools whose faults are known, because they were planted: what a selector is tried on."""

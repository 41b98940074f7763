"""Benchmarks: each module measures two things in one run and stores their ratio."""

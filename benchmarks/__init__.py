"""Benchmarks: one file per thing measured; results in the README."""

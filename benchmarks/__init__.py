"""Benchmarks: one file for each measurement. README.md has the results."""

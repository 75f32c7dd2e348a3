"""Measure tieredllm beside the least that could do the same: `make bench`."""

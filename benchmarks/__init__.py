"""Benchmarks: both sides in one process, in turn, as ratios with their spread."""

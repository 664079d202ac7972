"""Benchmarks: all sides in one process, in turn, as ratios with their spread.

``python -m benchmarks.run all`` measures everything on the device at hand; ``run.py`` says more.
"""

"""Benchmarks: `python -m egoctl.tests.benchmarks`, or `make bench`. docs/benchmarks.md explains."""

"""A grid of runs from a plan: runs, tables, curves, page."""

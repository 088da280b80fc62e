"""A student learns from labels and stored targets: a method of the loop in pipeline/runs/."""

"""A training run of any method: its folder, its checkpoints, and the loop over epochs and steps."""

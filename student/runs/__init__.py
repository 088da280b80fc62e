"""A run's folder: place, record, checkpoints, the clips it was trained on; and asking it again."""

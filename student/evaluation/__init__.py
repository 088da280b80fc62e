"""Predictions, metrics, what a student costs."""

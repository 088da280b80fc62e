"""Clips of a manifest become frames, JPEGs and IMU windows, each video decoded once, in threads."""

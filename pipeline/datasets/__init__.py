"""Sources of videos and labels, each to a manifest, and a manifest's health."""

"""A teacher is fitted to a manifest's labels, and scored on them."""

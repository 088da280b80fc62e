"""Head motion from any recording, and windows of it that can be trusted."""

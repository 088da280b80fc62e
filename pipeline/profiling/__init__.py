"""Size, speed and memory of networks, measured side by side."""

"""The networks that teachers are made of, and how their published files are read."""

"""The heavy video models, behind one protocol."""

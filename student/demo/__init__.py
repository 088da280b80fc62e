"""The whole job on the demo world."""

"""Ego4D's Hands + Objects annotations, as EgoDistill uses them."""

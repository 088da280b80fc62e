"""Whole commands, from their first file to their last line."""

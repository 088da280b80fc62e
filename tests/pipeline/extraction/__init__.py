"""Tests of pipeline/extraction/."""

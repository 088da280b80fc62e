"""Tests of pipeline/teachers/."""

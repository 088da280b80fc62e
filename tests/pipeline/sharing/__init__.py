"""Tests of pipeline/sharing/."""

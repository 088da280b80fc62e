"""Tests of pipeline/video/."""

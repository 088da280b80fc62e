"""Tests of student/runs/."""

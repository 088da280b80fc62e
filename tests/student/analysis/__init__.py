"""Tests of student/analysis/."""

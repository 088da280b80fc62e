"""Tests of student/studies/."""

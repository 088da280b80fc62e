"""Tests of student/training/."""

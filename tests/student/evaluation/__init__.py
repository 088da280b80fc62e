"""Tests of student/evaluation/."""

"""Tests of student/demo/."""

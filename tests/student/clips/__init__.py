"""Tests of student/clips/."""

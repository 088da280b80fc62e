"""Tests of student/epic/."""

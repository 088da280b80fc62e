"""Tests of student/settings/."""

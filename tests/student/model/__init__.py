"""Tests of student/model/."""

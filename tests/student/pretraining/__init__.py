"""Tests of student/pretraining/."""

"""Tests of student/, a folder per room."""

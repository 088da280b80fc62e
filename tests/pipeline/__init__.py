"""Tests of pipeline/, a folder per room."""

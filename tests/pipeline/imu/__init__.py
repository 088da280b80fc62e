"""Tests of pipeline/imu/."""

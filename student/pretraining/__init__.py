"""The epochs of the IMU branch, without labels."""

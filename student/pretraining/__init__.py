"""The IMU branch learns without labels: a method of the loop in pipeline/runs/."""

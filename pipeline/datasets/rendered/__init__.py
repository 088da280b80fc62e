"""The demo world: egocentric videos drawn of a simulated head and hand, and the head's IMU."""

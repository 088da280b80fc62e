"""Teachers, videos, sensors and the store."""

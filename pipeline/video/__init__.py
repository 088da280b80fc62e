"""Pictures of a video at given times, through PyAV or torchcodec; damage named, never hidden."""

"""Long runs of many processes that are killed, damaged and lied to: `make soak`."""

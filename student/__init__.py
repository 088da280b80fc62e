"""Models, losses, training and evaluation of light students."""

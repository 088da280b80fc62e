"""The epochs of a student."""

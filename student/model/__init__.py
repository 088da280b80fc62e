"""What a student is: its encoders, the frames it sees, the losses it is trained by."""

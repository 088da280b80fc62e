"""The teacher's contract, the line-up, weights and batches; the networks lie in `networks/`."""

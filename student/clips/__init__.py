"""A split in memory: manifest joined with stores, frames decoded or encoded, epochs' order."""

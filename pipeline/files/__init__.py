"""Where files live: a folder, a bucket, this node's cache; written whole or not at all."""

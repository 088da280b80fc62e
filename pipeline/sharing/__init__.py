"""Work on whole stores: verify, repair, copy, merge, diff, list, describe, clean up, reuse."""

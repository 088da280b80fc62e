"""One file per source of videos and labels; each returns a Manifest."""

"""What a run is asked for: typed, checked, from options or a TOML file."""

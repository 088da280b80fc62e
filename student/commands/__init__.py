"""Options to records, one call, printed lines: one file per group of commands."""

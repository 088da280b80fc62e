"""EPIC-KITCHENS' official metrics and challenge file."""

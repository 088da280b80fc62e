"""EPIC-KITCHENS-100 from its official files."""

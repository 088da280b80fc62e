"""Tests of the repository itself: imports, packaging, documents."""

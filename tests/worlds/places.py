"""Where the repository and real recordings lie, for tests and benchmarks."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
MANIFESTS = ROOT / "manifests"
DATA = Path(os.environ.get("EGOCTL_TEST_DATA", ROOT.parent / "shared" / "data"))
"""Recordings and annotations that are not ours to ship."""

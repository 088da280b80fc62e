"""What tests of copies share: a store, where to copy it, and a copy in a process of its own.

Test files name this module in `pytest_plugins` and then ask for `source` and `target`.
PYTEST_DONT_REWRITE: test files also import from it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from egoctl.pipeline.files.place import Place
from egoctl.pipeline.sharing.copy import CopyReport, copy_store
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.small_stores import clip_row, small_store


@pytest.fixture
def source(tmp_path: Path) -> FeatureStore:
    """Rows s0 to s9 in parts of 4, 4 and 2."""
    return small_store(str(tmp_path / "source"), [clip_row(f"s{i}") for i in range(10)])


@pytest.fixture(params=["folder", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    if request.param == "folder":
        return str(tmp_path / "target")
    return f"{request.getfixturevalue('s3')}/target"


def changed(path: Path, at: int = 0) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def counts(report: CopyReport) -> dict[str, int]:
    return report.num_parts


def content(url: str) -> dict[str, bytes]:
    """Every file of a store but claims, by name."""
    place = Place(url)
    names = [info.name for info in place.list() if not info.name.startswith("claims/")]
    return {name: place.read(name) or b"" for name in names}


def run(source: str, target: str, environment: Mapping[str, str]) -> None:
    """Copy with few threads; multiprocessing started it, so it is told its environment."""
    os.environ.update(environment)
    copy_store(source, target, Selection(), num_threads=3)

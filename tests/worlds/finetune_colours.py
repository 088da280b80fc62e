"""Fixtures for tests of fine-tuning: a folder of moving colours, and the tiny teacher to fit.

Test files name this module in `pytest_plugins`, and then ask for `folder` and `tiny`.
"""

from pathlib import Path

import pytest

from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.finetune_world import TINY, make_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("colours")
    make_manifest(found)
    return found


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineup, "SOURCES", (*lineup.SOURCES, TINY))

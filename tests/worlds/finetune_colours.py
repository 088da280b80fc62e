"""Fixtures for tests of fine-tuning: a folder of moving colours, and the tiny teacher to fit.

Test files name this module in `pytest_plugins`, and then ask for `folder` and `tiny`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.finetune_world import TINY, make_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("colours")
    make_manifest(found)
    return found


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lineup, "SOURCES", (*lineup.SOURCES, TINY))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

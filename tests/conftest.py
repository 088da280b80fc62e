"""What every test may count on: one thread per process, and a Ctrl-C that arrives."""

import os
import signal
from collections.abc import Iterator

import pytest

pytest_plugins = ["egoctl.tests.worlds.s3_server"]
LONG = (
    "test_demo.py", "test_finetune.py", "test_extract_job.py", "test_distributed.py",
    "test_mid_epoch.py", "test_kill.py", "test_pretrain_learns.py", "test_study.py",
)  # fmt: skip
"""Run first: one of them begun last would keep one process busy while the others are idle."""
# Before torch is loaded, which reads it once; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore SIGINT, children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; tests of one file stay in their order."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))

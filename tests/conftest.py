"""What every test may count on: one thread per process, and a Ctrl-C that arrives."""

import os
import signal
from collections.abc import Iterator

import pytest

pytest_plugins = ["egoctl.tests.worlds.s3_server"]
# Before torch is loaded, which reads it once; processes that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore SIGINT, children too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

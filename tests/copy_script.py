"""A store's copy in a process of its own, for tests that kill it."""

import os
from collections.abc import Mapping

from egoctl.pipeline.store_copy import copy_store
from egoctl.pipeline.store_selection import Selection


def run(source: str, target: str, environment: Mapping[str, str]) -> None:
    """Copy with few threads; multiprocessing started it, so it is told its environment."""
    os.environ.update(environment)
    copy_store(source, target, Selection(), num_threads=3)

"""What tests of copies share: a store's files, and a copy in a process of its own to be killed."""

import os
from collections.abc import Mapping

from egoctl.pipeline.place import Place
from egoctl.pipeline.store_copy import copy_store
from egoctl.pipeline.store_selection import Selection


def content(url: str) -> dict[str, bytes]:
    """Every file of a store but claims, by name."""
    place = Place(url)
    names = [info.name for info in place.list() if not info.name.startswith("claims/")]
    return {name: place.read(name) or b"" for name in names}


def run(source: str, target: str, environment: Mapping[str, str]) -> None:
    """Copy with few threads; multiprocessing started it, so it is told its environment."""
    os.environ.update(environment)
    copy_store(source, target, Selection(), num_threads=3)

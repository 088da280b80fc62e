"""Claims on files in memory, whose clock, faults and deaths the test sets.

Test files name this module in `pytest_plugins` and then ask for `shelf` and `new`.
PYTEST_DONT_REWRITE: test files also import from it.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.pipeline.store.claims import Claims

GIVE_UP_S = 60.0
LEASE_S = 120.0
GONE_S = LEASE_S + 1.5
"""After this long without a renewal a claim has expired, whatever its time was rounded to."""


class Shelf(Place):
    """Files in memory, on a clock that the test sets; it can fail, and stop in the middle."""

    def __init__(self) -> None:
        super().__init__("/shelf")
        self.files: dict[str, tuple[bytes, float]] = {}
        self.storage_s = 5e8
        self.steady_s = 100.0
        self.tick_s = 0.0
        """Times are rounded down to this, if it is not 0."""
        self.requests: list[str] = []
        self.is_down = False
        self.dies_after: int | None = None
        """Deletions until the process is killed."""

    def pass_time(self, seconds: float) -> None:
        self.storage_s += seconds
        self.steady_s += seconds

    def claims(self, holder: str, *, lease_s: float = LEASE_S) -> Claims:
        return Claims(self, holder=holder, lease_s=lease_s, clock=lambda: self.steady_s)

    def claim_files(self) -> list[str]:
        return sorted(name for name in self.files if not name.startswith("clock/"))

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes | None:
        self._ask(f"read {name}")
        return self.files[name][0] if name in self.files else None

    def info(self, name: str) -> FileInfo | None:
        self._ask(f"info {name}")
        if name not in self.files:
            return None
        content, modified_s = self.files[name]
        if self.tick_s:
            modified_s -= modified_s % self.tick_s
        return FileInfo(
            name=name, num_bytes=len(content), modified_s=modified_s, e_tag=str(hash(content))
        )

    def list(self, folder: str = "") -> Iterator[FileInfo]:
        self._ask(f"list {folder}")
        for name in sorted(self.files):
            if not folder or name.startswith(f"{folder}/"):
                info = self.info(name)
                self.requests.pop()
                if info is not None:
                    yield info

    def put(self, name: str, content: bytes | Path) -> None:
        assert isinstance(content, bytes)
        self._ask(f"put {name}")
        self.files[name] = (content, self.storage_s)

    def create(self, name: str, content: bytes) -> bool:
        self._ask(f"create {name}")
        return self.files.setdefault(name, (content, self.storage_s))[0] == content

    def delete(self, name: str) -> None:
        self._ask(f"delete {name}")
        if self.dies_after == 0:
            raise KeyboardInterrupt
        if self.dies_after is not None:
            self.dies_after -= 1
        self.files.pop(name, None)

    def _ask(self, request: str) -> None:
        self.requests.append(request)
        if self.is_down:
            raise StoreError(f"{request}: connection refused")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def new(shelf: Shelf) -> Iterator[Callable[..., Claims]]:
    """Makes claims on the shelf, and ends their threads."""
    made: list[Claims] = []

    def make(holder: str, *, lease_s: float = LEASE_S) -> Claims:
        made.append(shelf.claims(holder, lease_s=lease_s))
        return made[-1]

    yield make
    shelf.dies_after = None
    for claims in made:
        claims.close()


def chain_of_three(shelf: Shelf, new: Callable[..., Claims]) -> list[Claims]:
    """Two frozen holders and, on top of them, a living one."""
    holders = [new("a"), new("b"), new("c")]
    for claims in holders:
        shelf.pass_time(GONE_S)
        assert claims.take(7)
    return holders


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + GIVE_UP_S
    while not is_so():
        assert time.monotonic() < give_up_s, "waited in vain"
        time.sleep(0.01)

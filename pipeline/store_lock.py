"""One writer per store at a time, enforced by the operating system."""

import fcntl
import os
import weakref
from pathlib import Path

from egoctl.pipeline.errors import StoreError


class StoreLock:
    """An exclusive lock on a file; it ends with the process that holds it, however that dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._let_go: weakref.finalize[[int], StoreLock] | None = None

    def acquire(self) -> None:
        """Take the lock, or keep it.

        Raises:
            StoreError: if another process has it.
        """
        if self._let_go is not None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreError(
                f"another process is writing into {self._path.parent}. Wait for it, or give "
                "another path."
            ) from None
        # Whoever forgets to release it lets it go with the object.
        self._let_go = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Let others write; once is enough."""
        if self._let_go is not None:
            self._let_go()
            self._let_go = None

"""Progress for people: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY_S = 10.0


class Progress:
    """Counts items of a known total; use it as a context manager."""

    def __init__(self, total: int, *, title: str, unit: str) -> None:
        self._total, self._title, self._unit = total, title, unit
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=title, unit=unit) if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    def advance(self, count: int = 1) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._line()

    def reach(self, done: int, total: int) -> None:
        """For callers that count by themselves, and know the total only when they begin."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
        self.advance(done - self._done)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        rate = self._done / max(self._last_line - self._start, 1e-9)
        left_s = (self._total - self._done) / rate if rate else float("inf")
        left = f", {left_s:.0f} s left" if self._done < self._total and rate else ""
        print(
            f"{self._title}: {self._done}/{self._total} {self._unit}s, "
            f"{rate:.1f} {self._unit}s/s{left}",
            file=sys.stderr,
            flush=True,
        )

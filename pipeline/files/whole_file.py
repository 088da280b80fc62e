"""Local files that are written whole or not at all: readers see the old file or the new one.

Everything goes into a file beside it first, `.NAME.PID.part`, which then takes its name. A process
that is killed half-way leaves that file behind; nothing reads it. Of several processes that write
one file at the same time, each writes a part of its own, and the last one stays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Path to write to instead of file; at the end of the block it takes file's name.

    If the block fails, file stays as it was, and what was written is removed.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_whole(file: Path, content: str | bytes) -> None:
    """Replace the content of file, which need not exist; text is written as UTF-8."""
    with whole_file(file) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)

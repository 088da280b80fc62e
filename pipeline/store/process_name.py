"""Names a process so that others on its machine can tell whether it still lives."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


def process_name() -> str:
    """Name of this process; '' where two machines or two containers cannot be told apart."""
    home, started = _home(), _started(os.getpid())
    return f"{home}/{os.getpid()}/{started}" if home and started else ""


def is_known_dead(name: str) -> bool:
    """Whether the process of that name ran on this machine and runs no more."""
    home, _, rest = name.rpartition("/")[0].rpartition("/")
    if not home or home != _home() or not rest.isdecimal():
        return False
    try:
        os.kill(int(rest), 0)  # signal 0 asks, and does nothing
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's, alive
    started = _started(int(rest))
    # Another start: its number was given to a new process. None: /proc does not show it.
    return started is not None and started != name.rpartition("/")[2]


@cache
def _home() -> str:
    """The machine since it was started, and the container: process numbers mean one there."""
    with suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(_PROC / 'self/ns/pid')}"
    return ""


def _started(pid: int) -> str | None:
    """When a process started, in ticks; 'zombie' if it ended and nobody has asked how."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command's name is in parentheses and may have any characters.
    fields = text.rpartition(")")[2].split()
    return "zombie" if fields[0] == "Z" else fields[19]

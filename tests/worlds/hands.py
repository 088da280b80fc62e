"""Commands in real processes of their own, several at once; what storage that fails is like.

A module that those processes can import: they cannot import test files.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from egoctl.tests.worlds import extract_script

GIVE_UP_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a run of the command ended."""

    code: int | None
    out: str
    err: str

    @property
    def num_read(self) -> int:
        found = json.loads(self.out)["num_read"]
        assert isinstance(found, int)
        return found


def run_child(args: list[str], log: Path, env: dict[str, str], prepare: Callable[[], None]) -> None:
    """extract_script in a process of its own, its outputs in two files."""
    os.environ.update(env)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(log.with_suffix(suffix), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    prepare()
    sys.argv = ["egoctl", *args]
    extract_script.main()


def nothing() -> None:
    """Prepare nothing."""


def run_together(
    processes: ForkServerContext,
    folder: Path,
    commands: Sequence[list[str]],
    *,
    env: dict[str, str] | None = None,
    prepare: Callable[[], None] = nothing,
) -> list[Ended]:
    """Start these commands at once and wait for all of them; their outputs go to folder."""
    logs = [folder / f"log{number}" for number in range(len(commands))]
    started = [
        processes.Process(target=run_child, args=(command, log, env or {}, prepare))
        for command, log in zip(commands, logs, strict=True)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(GIVE_UP_S)
        assert process.exitcode is not None, "it does not end"
    return [
        Ended(
            code=process.exitcode,
            out=log.with_suffix(".out").read_text(),
            err=log.with_suffix(".err").read_text(),
        )
        for process, log in zip(started, logs, strict=True)
    ]


def limit_files(num_bytes: int) -> None:
    """What a full disk looks like to whoever writes a file larger than that."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def obey_modes() -> None:
    """Let the modes of files bind this process even where it is the superuser's. Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface; this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0

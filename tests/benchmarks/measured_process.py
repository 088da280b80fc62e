"""Run a command and print what it took, as JSON. A process of its own, and that for a reason.

Linux counts what the parent held when it started a child into the child's peak memory. Started
from a benchmark that holds a network, every command would seem to need a gigabyte; this file
imports nothing large, so the error is the few MiB of a bare Python.

    python -m egoctl.tests.benchmarks.measured_process COMMAND [ARGUMENT ...]
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of ru_maxrss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one command took, from its start to its end."""

    exit_code: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Resident memory of the process, or of a child of its own if that had more."""
    output: str
    """Its standard output."""


def measured(command: list[str]) -> Usage:
    """Run the command in a lean parent; its standard error is ours.

    Raises:
        RuntimeError: if the command fails; its standard error tells why.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, *command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    usage = Usage(**json.loads(done.stdout))
    if usage.exit_code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {usage.exit_code}")
    return usage


def _run(command: list[str]) -> Usage:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        # Popen must not wait again: the process is gone.
        process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        exit_code=process.returncode,
        seconds=time.perf_counter() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * MAXRSS_BYTES,
        output=output,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_run(sys.argv[1:]))))

"""Run all benchmarks, or the named ones, and print their figures.

Nothing here can fail for being slow: an aim is printed beside its figure, for people to judge.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from egoctl.pipeline.devices import pick_device
from egoctl.pipeline.errors import EgoctlError
from egoctl.tests.benchmarks import (
    decoding,
    device,
    extraction,
    live_teacher,
    million,
    motionformer,
    processes,
    reading,
    several_teachers,
    storage,
    training,
)
from egoctl.tests.benchmarks.figures import Figure, Setup, shown, spread
from egoctl.tests.benchmarks.machine import Machine

BENCHMARKS: dict[str, Callable[[Setup], list[Figure]]] = {
    "extraction": extraction.run,
    "decoding": decoding.run,
    "several_teachers": several_teachers.run,
    "storage": storage.run,
    "million": million.run,
    "reading": reading.run,
    "training": training.run,
    "live_teacher": live_teacher.run,
    "processes": processes.run,
    "motionformer": motionformer.run,
    "device": device.run,
}
COLUMNS = ("figure", "median", "min to max", "unit", "aim")


def main(arguments: Sequence[str]) -> None:
    """Print the figures of the benchmarks that the arguments name."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.names) - BENCHMARKS.keys()):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if asked.repeats < 1:
        parser.error(f"--repeats must be 1 or more, got {asked.repeats}")
    try:
        chosen = pick_device(asked.device)
    except EgoctlError as error:
        parser.error(str(error))
    machine = Machine.here(chosen)
    head = [*machine.lines(), f"Repeats: {asked.repeats}; what is compared was run in turns."]
    if asked.quick:
        head.append("QUICK sizes: these figures show that the benchmarks work, and nothing else.")
    lines = text_lines
    if asked.markdown:
        lines = markdown_lines
        # The blanks at the end keep the lines apart in markdown.
        head = ["## Results", "", *(f"{line}  " for line in head)]
    print("\n".join(head))
    figures: list[Figure] = []
    # Of a CPU the last one says nothing that `extraction` does not.
    usual = [name for name in BENCHMARKS if name != "device" or chosen.type != "cpu"]
    for name in asked.names or usual:
        start = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="egoctl-bench-") as folder:
            found = BENCHMARKS[name](
                Setup(
                    folder=Path(folder),
                    repeats=asked.repeats,
                    is_quick=asked.quick,
                    device=chosen,
                )
            )
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        # At once: a benchmark that fails later does not take these along.
        print("\n".join(["", *lines(name, found)]), flush=True)
        figures += found
    if asked.json is not None:
        record = {
            "machine": asdict(machine),
            "repeats": asked.repeats,
            "is_quick": asked.quick,
            "figures": [figure.to_json() for figure in figures],
        }
        asked.json.write_text(json.dumps(record, indent=1) + "\n")


def text_lines(name: str, figures: Sequence[Figure]) -> Iterator[str]:
    """A benchmark's table for a terminal."""
    rows = list(_rows(figures))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    yield name
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield ("  " + "  ".join(cells)).rstrip()


def markdown_lines(name: str, figures: Sequence[Figure]) -> Iterator[str]:
    """The same for docs/benchmarks.md."""
    header, *rows = _rows(figures)
    yield from (f"### {name}", "", f"| {' | '.join(header)} |", "| --- | ---: | --- | --- | --- |")
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _rows(figures: Sequence[Figure]) -> Iterator[tuple[str, ...]]:
    yield COLUMNS
    for figure in figures:
        yield figure.name, shown(figure.median), spread(figure), figure.unit, figure.aim or ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m egoctl.tests.benchmarks",
        description="Print the figures of all benchmarks, or of the named ones.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmarks")
    parser.add_argument("--device", default="cpu", help="of the networks: cpu, cuda or mps")
    parser.add_argument("--markdown", action="store_true", help="as in docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value to FILE")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])

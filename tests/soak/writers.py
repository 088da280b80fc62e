"""A small world of drawn videos, processes that extract it into one store, and what they left."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds import extract_script
from egoctl.tests.worlds.extract_world import World, draw_colours, write_imu

NUM_PARTS = 30
PART_ROWS = 4
GIVE_UP_S = 300.0
KINDS = ("teacher", "inputs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Starts `extract-teacher` processes with torch imported already: an import costs seconds."""

    world: World
    context: ForkServerContext
    lease_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the processes, besides what the first of them found."""

    def start(self, base: str) -> BaseProcess:
        """One more process that fills BASE-teacher and BASE-inputs until nothing is left."""
        words = [
            *("extract-teacher", str(self.world.manifest_path), "--teacher", "means"),
            *("--device", "cpu", "--part-rows", str(PART_ROWS), "--frame-px", "64"),
            *("--store", f"{base}-teacher", "--inputs", f"{base}-inputs"),
            *("--lease", str(self.lease_s)),
        ]
        name = base.rstrip("/").rsplit("/", maxsplit=1)[-1]
        log = self.world.folder / f"{name}-{time.monotonic_ns()}.log"
        process = self.context.Process(
            target=_extract, args=(words, log, dict(self.environment)), daemon=True
        )
        process.start()
        return process

    def finish(self, base: str) -> None:
        """Run one process to its end."""
        process = self.start(base)
        process.join(GIVE_UP_S)
        if process.exitcode != 1:  # 1: one video of the world is missing, and is told
            raise RuntimeError(f"{base}: it ended with {process.exitcode}\n{self.last_words()}")

    def last_words(self) -> str:
        """What the process that was started last has said at the end."""
        logs = sorted(self.world.folder.glob("*.log"), key=lambda log: log.stat().st_mtime)
        return "\n".join(logs[-1].read_text().splitlines()[-8:]) if logs else ""


def _extract(words: list[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    extract_script.run(words, log)


@contextmanager
def crew(folder: Path, *, lease_s: float) -> Iterator[Crew]:
    """The world in folder: 120 clips in 30 parts of both stores; one video is missing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["egoctl.tests.worlds.extract_script", "egoctl.pipeline.extraction.job",
         "egoctl.pipeline.extraction.report",
         "egoctl.pipeline.store.part_writer"]
    )  # fmt: skip
    world = World(folder=folder)
    draw_colours(world.videos / "a.mp4", seconds=8)
    draw_colours(world.videos / "b.mp4", seconds=8, first=300)
    write_imu(world.imu / "a.csv", seconds=8)
    rows = [
        {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 7.9},
        {"segment_id": "b", "video": "b.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 7.5},
        {"segment_id": "gone", "video": "gone.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 2.3},
    ]
    manifest = world.manifest(rows, stride_s=0.1)
    if len(manifest.clips()) != NUM_PARTS * PART_ROWS:
        raise RuntimeError(f"the world has {len(manifest.clips())} clips")
    yield Crew(world=world, context=context, lease_s=lease_s)


def difference(base: str, expected: str) -> str | None:
    """What differs between two runs' stores in any value, row, order or outcome; None: nothing."""
    for kind in KINDS:
        store, wanted = FeatureStore.open(f"{base}-{kind}"), FeatureStore.open(f"{expected}-{kind}")
        if store.clips().rows() != wanted.clips().rows():
            return f"{kind}: other rows, or another order"
        if store.rows().rows() != wanted.rows().rows():
            return f"{kind}: other outcomes"
        receipts, expected_receipts = store.valid_receipts(), wanted.valid_receipts()
        if receipts.keys() != expected_receipts.keys():
            return (
                f"{kind}: parts {sorted(expected_receipts.keys() - receipts.keys())} are not done"
            )
        for number, receipt in receipts.items():
            # Digests of whole shards: every bit of every array.
            if receipt.shards != expected_receipts[number].shards:
                return f"{kind}: part {number} has other values"
        if faults := verify(f"{base}-{kind}").faults:
            return f"{kind}: {faults[0].file} {faults[0].what}"
    return None

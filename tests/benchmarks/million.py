"""A million clips' features: how long opening takes, reading them all, and in how much memory."""

# N rows, D feature width (768), n rows of a slice

import json
import sys
import time
from pathlib import Path

import numpy as np

from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.store.header import ArraySpec
from egoctl.tests.benchmarks.figures import Figure, Setup
from egoctl.tests.benchmarks.filled_store import new_store, numbered_clips, write_all
from egoctl.tests.benchmarks.measured_process import Usage, measured

FEATURE_DIM = 768
NUM_ROWS, QUICK_NUM_ROWS = 1_000_000, 2_000
PART_ROWS = 512
MIB = 2**20


def run(setup: Setup) -> list[Figure]:
    """Fill one store and one file; measure processes that read them."""
    num_rows = QUICK_NUM_ROWS if setup.is_quick else NUM_ROWS
    spec = ArraySpec(name="feature", dtype="float16", row_shape=(FEATURE_DIM,), chunk_rows=256)
    path, plain = setup.folder / "million.store", setup.folder / "million.npy"
    store = new_store(
        path,
        kind="teacher",
        part_rows=PART_ROWS,
        arrays=[spec],
        clips=list(numbered_clips(num_rows, window_s=WINDOW_S)),
    )
    # Drawn as float32 in slices: all at once, this process would hold four times the data.
    chosen = np.random.default_rng(0)
    feature_ND = np.empty((num_rows, FEATURE_DIM), np.float16)
    for low in range(0, num_rows, 50_000):
        part_nD = feature_ND[low : low + 50_000]
        part_nD[:] = chosen.standard_normal(part_nD.shape, dtype=np.float32)
    start = time.perf_counter()
    write_all(store, {"feature": feature_ND})
    write_s = time.perf_counter() - start
    np.save(plain, feature_ND)
    del feature_ND
    shape = f"{num_rows:,} x {FEATURE_DIM} float16"
    timed = [_reader(path, plain) for _ in range(setup.repeats)]
    lean = [_reader(path, None) for _ in range(setup.repeats)]
    found = [json.loads(usage.output) for usage in timed]
    num_bytes = found[0]["num_bytes"]

    def figure(name: str, unit: str, values: list[float], aim: str | None = None) -> Figure:
        return Figure(
            benchmark="million", name=f"{shape}: {name}", unit=unit, values=tuple(values), aim=aim
        )

    ratios = [
        plain_s / read_s
        for one in found
        for read_s, plain_s in zip(one["read_s"], one["plain_s"], strict=True)
    ]
    return [
        figure("write all parts", "rows/s", [num_rows / write_s]),
        figure("open", "s", [one["open_s"] for one in found], "< 2"),
        figure("list rows and outcomes", "s", [one["rows_s"] for one in found]),
        figure("read into memory", "GB/s",
               [num_bytes / 1e9 / s for o in found for s in o["read_s"]]),
        figure("np.load of a plain file", "GB/s",
               [num_bytes / 1e9 / s for o in found for s in o["plain_s"]]),
        figure("speed of the store / speed of the plain file", "ratio", ratios, ">= 0.50"),
        figure("peak memory of the process / data", "ratio",
               [usage.peak_bytes / num_bytes for usage in lean], "<= 1.20"),
        figure("peak memory of the process - data", "MiB",
               [(usage.peak_bytes - num_bytes) / MIB for usage in lean]),
    ]  # fmt: skip


def _reader(path: Path, plain: Path | None) -> Usage:
    files = [str(path)] if plain is None else [str(path), str(plain)]
    return measured([sys.executable, "-m", "egoctl.tests.benchmarks.million_reader", *files])

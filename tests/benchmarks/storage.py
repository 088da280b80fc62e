"""What the store costs beside plain numpy files of the same bytes.

Everything comes from the page cache: this compares code, not disks.
"""

# N rows, D feature width (768), K stored frames

from pathlib import Path

import numpy as np

from egoctl.pipeline.extraction.plan import StoreConfig
from egoctl.pipeline.records import WINDOW_S
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.header import BYTES, ArraySpec
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates, seconds_ratios
from egoctl.tests.benchmarks.filled_store import new_store, numbered_clips, write_all, write_part
from egoctl.tests.benchmarks.footage import jpeg_frames

STORES = StoreConfig()
FEATURE_DIM = 768
NUM_PARTS, QUICK_NUM_PARTS = 196, 4
"""196 parts of 512 rows are 100,352 rows."""
NUM_FRAME_PARTS, QUICK_NUM_FRAME_PARTS = 8, 1
NUM_PICTURES = 64
"""Distinct ones; rows take turns with them."""


def run(setup: Setup) -> list[Figure]:
    """Targets written and read beside plain files; frames read."""
    return [*_targets(setup), *_frames(setup)]


def _targets(setup: Setup) -> list[Figure]:
    store = _new_store(
        setup.folder / "targets.store",
        kind="teacher",
        array=ArraySpec(name="feature", dtype="float16", row_shape=(FEATURE_DIM,), chunk_rows=256),
        num_parts=QUICK_NUM_PARTS if setup.is_quick else NUM_PARTS,
    )
    parts = store.parts()
    rows_N = np.arange(sum(len(part.rows) for part in parts))
    feature_ND = np.random.default_rng(0).normal(size=(len(rows_N), FEATURE_DIM))
    feature_ND = feature_ND.astype(np.float16)
    files = setup.folder / "files"
    files.mkdir()

    def write_store() -> float:
        for part in parts:
            write_part(store, part, {"feature": feature_ND})
        return len(parts)

    def write_files() -> float:
        for part in parts:
            span = slice(part.first_row, part.first_row + len(part.rows))
            np.save(files / f"{part.number}.npy", feature_ND[span])
        return len(parts)

    written = alternate({"store": write_store, "files": write_files}, repeats=setup.repeats)

    one_file = setup.folder / "all.npy"
    np.save(one_file, feature_ND)
    # Read once before the clock starts: both sides find their bytes in the page cache, and agree.
    assert np.array_equal(store.read("feature", rows_N), np.load(one_file))
    read = alternate(
        {
            "store": lambda: len(store.read("feature", rows_N)),
            "files": lambda: len(np.load(one_file)),
        },
        repeats=setup.repeats,
    )
    part_shape = f"{STORES.part_rows} x {FEATURE_DIM} float16"
    all_shape = f"{len(rows_N):,} x {FEATURE_DIM} float16"
    figures = []
    for what, samples, whole in (
        (f"write a part of {part_shape}", written, "ms a part"),
        (f"read all {all_shape}", read, "ms"),
    ):
        for side, name in (("store", "store"), ("files", "plain .npy")):
            per = len(parts) if samples is written else 1
            values = tuple(1000 * sample.seconds / per for sample in samples[side])
            figures.append(_figure(f"{what}, {name}", whole, values))
        figures.append(
            _figure(
                f"{what}, store / plain .npy",
                "ratio of seconds",
                seconds_ratios(samples["store"], samples["files"]),
            )
        )
    return figures


def _frames(setup: Setup) -> list[Figure]:
    num_frames = STORES.frames_per_clip
    store = _new_store(
        setup.folder / "frames.store",
        kind="inputs",
        array=ArraySpec(name="frames", dtype=BYTES, row_shape=(num_frames,), chunk_rows=64),
        num_parts=QUICK_NUM_FRAME_PARTS if setup.is_quick else NUM_FRAME_PARTS,
    )
    num_rows = sum(len(part.rows) for part in store.parts())
    jpegs = jpeg_frames(NUM_PICTURES, STORES)
    frames_NK = np.empty((num_rows, num_frames), dtype=object)
    for row in range(num_rows):
        frames_NK[row] = [jpegs[(row + frame) % NUM_PICTURES] for frame in range(num_frames)]
    write_all(store, {"frames": frames_NK})
    # Read once before the clock starts, as above.
    assert np.array_equal(store.read("frames", np.arange(num_rows)), frames_NK)
    in_order_N = np.arange(num_rows)
    shuffled_N = np.random.default_rng(0).permutation(num_rows)
    found = alternate(
        {
            "in order": lambda: store.read("frames", in_order_N).size,
            "shuffled": lambda: store.read("frames", shuffled_N).size,
        },
        repeats=setup.repeats,
    )
    mean_kib = np.mean([len(jpeg) for jpeg in jpegs]) / 1024
    return [
        _figure(
            f"read {num_rows:,} rows of {num_frames} JPEG frames ({mean_kib:.0f} KiB each), {side}",
            "frames/s",
            rates(samples),
        )
        for side, samples in found.items()
    ]


def _new_store(path: Path, *, kind: str, array: ArraySpec, num_parts: int) -> FeatureStore:
    clips = list(numbered_clips(num_parts * STORES.part_rows, window_s=WINDOW_S))
    return new_store(path, kind=kind, part_rows=STORES.part_rows, arrays=[array], clips=clips)


def _figure(name: str, unit: str, values: tuple[float, ...]) -> Figure:
    return Figure(benchmark="storage", name=name, unit=unit, values=values)

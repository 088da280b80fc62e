"""Writes a small store, or checks one that another Python and zarr wrote: `make test-newest`.

python -m egoctl.tests.worlds.exchange write FOLDER
python -m egoctl.tests.worlds.exchange check FOLDER
"""

import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import StoreRow
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader

ARRAYS = (
    ArraySpec(name="feature", dtype="float16", row_shape=(768,), chunk_rows=8),
    ArraySpec(name="imu", dtype="float32", row_shape=(422, 6), chunk_rows=8),
    ArraySpec(name="frames", dtype=BYTES, row_shape=(3,), chunk_rows=4),
)
NUM_ROWS = 40


def values() -> dict[str, NDArray[Any]]:
    """What the store holds, the same on every machine."""
    counted = np.arange(NUM_ROWS, dtype=np.float64)[:, None]
    frames = np.empty((NUM_ROWS, 3), dtype=object)
    for row in range(NUM_ROWS):
        frames[row] = [bytes([row, frame]) * (frame + 1) for frame in range(3)]
    return {
        "feature": (counted + np.arange(768) / 1024).astype(np.float16),
        "imu": np.broadcast_to(counted[:, :, None], (NUM_ROWS, 422, 6)).astype(np.float32),
        "frames": frames,
    }


def write(folder: Path) -> None:
    """Make the store."""
    recipe = {"made_for": "exchange", "zarr": version("zarr")}
    header = StoreHeader(kind="inputs", recipe=recipe, class_names=None, part_rows=16)
    store = FeatureStore.create(str(folder), header, ARRAYS)
    store.append(
        [
            StoreRow(
                clip_id=f"c{row}",
                segment_id=f"s{row}",
                video_id="ö",
                start_s=row / 3,
                stop_s=row / 3 + 2,
                clip_key=None,
            )
            for row in range(NUM_ROWS)
        ]
    )
    for part in store.parts():
        span = slice(part.first_row, part.first_row + part.num_rows)
        outcomes = [RowOutcome()] * part.num_rows
        store.write_part(
            part,
            {name: of_array[span] for name, of_array in values().items()},
            {"outcome": outcomes, "imu_outcome": outcomes},
            seconds={},
            versions={"zarr": version("zarr")},
        )
    store.close()


def check(folder: Path) -> None:
    """Read everything, as egoctl does and as any Zarr reader does; a warning is a failure."""
    warnings.simplefilter("error")
    store = FeatureStore.open(str(folder))
    assert store.rows()["outcome"].to_list() == ["ok"] * NUM_ROWS
    group = zarr.open_group(str(folder / "arrays"), mode="r")
    for name, wanted in values().items():
        np.testing.assert_array_equal(store.read(name, np.arange(NUM_ROWS)), wanted)
        stored = group[name]
        assert isinstance(stored, zarr.Array)
        np.testing.assert_array_equal(np.asarray(stored[:]), wanted)
    assert verify(str(folder)).faults == ()


def main() -> None:
    """Write or check, and say which versions did."""
    action, folder = sys.argv[1:]
    {"write": write, "check": check}[action](Path(folder))
    print(f"{action}: {folder}, Python {sys.version.split()[0]}, zarr {version('zarr')}: done")


if __name__ == "__main__":
    main()

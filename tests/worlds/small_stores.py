"""Small stores whose every value is known, for tests of what is done with whole stores.

The values of a clip hang on its id alone, so the same clip has the same values in any store.
"""

# n rows of a part

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.recipe import Recipe
from egoctl.pipeline.records import OK, RowOutcome
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import StoreRow, clip_key
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader
from egoctl.pipeline.trained_on import TrainedOn

RECIPE: Recipe = {
    "teacher": "means",
    "weights_sha256": "0" * 64,
    "weights_are_random": False,
    "stride_s": 0.1333,
    "dtype": "float16",
}
TEACHER_ARRAYS = (
    ArraySpec(name="feature", dtype="float16", row_shape=(5,), chunk_rows=256),
    ArraySpec(name="logits", dtype="float16", row_shape=(3,), chunk_rows=256),
)
INPUTS_ARRAYS = (
    ArraySpec(name="frames", dtype=BYTES, row_shape=(2,), chunk_rows=64),
    ArraySpec(name="imu", dtype="float32", row_shape=(4, 6), chunk_rows=64),
)
BAD_VIDEO = RowOutcome(code="past_end", reason="the video ends at 1.00 s")
BAD_IMU = RowOutcome(code="imu_gap", reason="a gap of 0.80 s")


def clip_row(name: str, *, video: str = "content", imu_key: str | None = None) -> StoreRow:
    """The row of clip NAME@0.000-2.000 of the video with that content."""
    return StoreRow(
        clip_id=f"{name}@0.000-2.000",
        segment_id=name,
        video_id="v",
        start_s=0.0,
        stop_s=2.0,
        clip_key=clip_key(f"{video} {name}", 0.0, 2.0),
        imu_key=imu_key,
    )


def clip_rows(names: Iterable[str], *, imu_key: str | None = None) -> list[StoreRow]:
    """The rows of several such clips; of a string, one for each letter."""
    return [clip_row(name, imu_key=imu_key) for name in names]


def values_of(clip_id: str, width: int) -> NDArray[np.float32]:
    """(width,) what stores hold of a clip."""
    seed = int.from_bytes(clip_id.encode(), "little")
    return np.random.default_rng(seed).normal(size=width).astype(np.float32)


def arrays_of(
    store: FeatureStore,
    clip_ids: Sequence[str],
    outcomes: Mapping[str, Sequence[RowOutcome]],
) -> dict[str, NDArray[Any]]:
    """(n, ...) every array of the store for these clips; nothing where the outcome is not ok."""
    arrays = {}
    for spec in store.header.arrays:
        stream = "imu_outcome" if spec.name.startswith("imu") else "outcome"
        is_ok = [outcome.code == OK for outcome in outcomes[stream]]
        values = np.empty((len(clip_ids), *spec.row_shape), object)
        for at, clip_id in enumerate(clip_ids):
            if spec.dtype == BYTES:
                values[at] = [f"{clip_id} {k}".encode() * is_ok[at] for k in range(2)]
            else:
                numbers = values_of(clip_id, int(np.prod(spec.row_shape)))
                values[at] = numbers.reshape(spec.row_shape) if is_ok[at] else np.nan
        arrays[spec.name] = values if spec.dtype == BYTES else values.astype(np.float32)
    return arrays


def small_store(
    url: str,
    rows: Sequence[StoreRow],
    *,
    kind: str = "teacher",
    recipe: Recipe = RECIPE,
    class_names: tuple[str, ...] | None = ("cut", "stir", "wash"),
    part_rows: int = 4,
    failed: Mapping[str, RowOutcome] | None = None,
    failed_imu: Mapping[str, RowOutcome] | None = None,
    done: Sequence[int] | None = None,
    shifts: Mapping[str, float] | None = None,
    seconds: float = 2.0,
    trained_on: TrainedOn | None = None,
) -> FeatureStore:
    """A store of these rows; failed, failed_imu and shifts (added to values) by segment_id.

    done: the parts that are written; None: all.
    """
    arrays = TEACHER_ARRAYS if kind == "teacher" else INPUTS_ARRAYS
    header = StoreHeader(
        kind=kind,
        recipe=recipe,
        class_names=class_names,
        part_rows=part_rows,
        trained_on=trained_on,
    )
    store = FeatureStore.create(url, header, arrays)
    store.append(rows)
    for part in store.parts():
        if done is not None and part.number not in done:
            continue
        segments = list(part.clips["segment_id"])
        outcomes = {"outcome": [(failed or {}).get(name, RowOutcome()) for name in segments]}
        if kind == "inputs":
            imu = [(failed_imu or {}).get(name, RowOutcome()) for name in segments]
            outcomes["imu_outcome"] = imu
        values = arrays_of(store, part.clip_ids, outcomes)
        for at, name in enumerate(segments):
            for of in values.values():
                if of.dtype != object:
                    of[at] += (shifts or {}).get(name, 0.0)
        assert store.write_part(
            part,
            values,
            outcomes,
            seconds={"teacher": seconds},
            versions={"egoctl": "test"},
        )
    store.close()
    return FeatureStore.open(url)


def with_times(row: StoreRow, start_s: float, stop_s: float) -> StoreRow:
    """The same clip_id with other times, as no store would append to itself."""
    return replace(row, start_s=start_s, stop_s=stop_s)

"""Stores filled without a teacher or a video, in the shapes that extraction gives them."""

# N rows

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from egoctl.pipeline.records import Clip, RowOutcome
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part, StoreRow
from egoctl.pipeline.store.header import ArraySpec, StoreHeader


def new_store(
    path: Path, *, kind: str, part_rows: int, arrays: Sequence[ArraySpec], clips: Sequence[Clip]
) -> FeatureStore:
    """A store with these rows, and no part written yet."""
    header = StoreHeader(
        kind=kind, recipe={"made_for": "benchmarks"}, class_names=None, part_rows=part_rows
    )
    store = FeatureStore.create(str(path), header, arrays)
    store.append(
        [
            StoreRow(
                clip_id=clip.clip_id,
                segment_id=clip.segment_id,
                video_id=clip.video_id,
                start_s=clip.start_s,
                stop_s=clip.stop_s,
                # Not the digest of a video, but as long.
                clip_key=f"{index:064x}",
            )
            for index, clip in enumerate(clips)
        ]
    )
    return store


def write_part(store: FeatureStore, part: Part, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the part's rows of arrays (N, ...); every clip went well."""
    span = slice(part.first_row, part.first_row + len(part.rows))
    streams = ("outcome", "imu_outcome") if store.header.kind == "inputs" else ("outcome",)
    store.write_part(
        part,
        {name: values[span] for name, values in arrays.items()},
        {stream: [RowOutcome()] * len(part.rows) for stream in streams},
        seconds={},
        versions={},
    )


def write_all(store: FeatureStore, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write every part."""
    for part in store.parts():
        write_part(store, part, arrays)


def numbered_clips(count: int, *, window_s: float) -> Iterator[Clip]:
    """Clips that follow one another in one long video."""
    for index in range(count):
        yield Clip(
            clip_id=f"s{index}",
            segment_id=f"s{index}",
            video_id="video",
            start_s=index * window_s,
            stop_s=(index + 1) * window_s,
        )

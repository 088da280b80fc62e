"""Whether a store holds what its videos and teacher give here and now: the proof of a recipe."""

# n sampled rows, K stored frames

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import simplejpeg
import torch
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.extraction.plan import clip_sources, store_rows
from egoctl.pipeline.extraction.recompute import Recomputed, Setting, recompute
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import ClipSource
from egoctl.pipeline.recipe import field_differences
from egoctl.pipeline.records import OK
from egoctl.pipeline.setting_checks import refuse_below
from egoctl.pipeline.sharing.checked_parts import CheckedParts
from egoctl.pipeline.sharing.closeness import Closeness
from egoctl.pipeline.some_names import NUM_SHOWN, first_names
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.header import BYTES, fitted
from egoctl.pipeline.store.jpeg import jpeg_fault
from egoctl.pipeline.store.outcomes import stream_of
from egoctl.pipeline.teachers.protocol import Teacher

MIN_COSINE = 0.999
"""Below it a row is not the same measurement: other kernels and GPUs stay far above."""
MID_GREY = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """A sample of rows, computed once more and held against what is stored."""

    url: str
    num_sampled: int
    num_ok: int
    """Rows with data whose clip is in the manifest: what the sample was drawn from."""
    differences: tuple[str, ...]
    """In what this run is not the one that made the store; only with force it got so far."""
    failures: tuple[str, ...]
    """Clips that have data in the store and give none here, and why."""
    arrays: Mapping[str, Closeness]

    @property
    def is_reproduced(self) -> bool:
        is_close = all(found.min_cosine >= MIN_COSINE for found in self.arrays.values())
        return bool(self.arrays) and is_close and not self.failures


def reproduction_lines(found: Reproduction) -> Iterator[str]:
    """The verdict, and what it rests on, for people."""
    for line in found.differences:
        yield f"WARNING: went on although this differs: {line}"
    yield f"{found.num_sampled} of {found.num_ok} rows computed again:"
    for name, closeness in found.arrays.items():
        yield f"{name}: {closeness.line()}"
    if found.failures:
        shown = "; ".join(found.failures[:NUM_SHOWN])
        yield f"{len(found.failures)} clips give no data here: {shown}"
    worst = min((of.min_cosine for of in found.arrays.values()), default=float("nan"))
    if found.is_reproduced:
        yield f"Reproduced: no cosine is below {MIN_COSINE} (the smallest is {worst:.6f})."
    else:
        yield f"NOT reproduced: the smallest cosine is {worst:.6f}, {MIN_COSINE} is needed."


def reproduce(
    url: str,
    manifest: Manifest,
    teacher: Teacher | None,
    *,
    device: torch.device,
    num_rows: int = 32,
    seed: int = 0,
    forced: bool = False,
) -> Reproduction:
    """Draw rows with data, compute them from the manifest's videos, and compare. Frames are
    compared as pixels about mid grey.

    Raises:
        StoreMismatchError: if teacher, settings or videos are not those of the store; it names
            what differs. With forced only if rows have another shape.
        EgoctlError: if a teacher is missing or too many, or nothing can be sampled.
    """
    store = FeatureStore.open(url)
    if (store.header.kind == "teacher") != (teacher is not None):
        needs = "needs --teacher" if teacher is None else "has no teacher: leave --teacher out"
        raise EgoctlError(f"{store.url} is a store of kind {store.header.kind}; it {needs}.")
    setting = Setting.of(store.header.recipe, manifest, teacher)
    found = [
        f"{one.field}: store {one.left}, this run {one.right}"
        for one in field_differences(store.header.recipe, setting.recipe)
    ]
    if not forced:
        _refuse(store.url, found)
    sources = clip_sources(manifest)
    rows, num_ok = _sample(store, sources, num_rows, seed)
    sampled = {clip_id: sources[clip_id] for clip_id in rows["clip_id"]}
    found += _other_content(rows, sampled)
    if not forced:
        _refuse(store.url, found)
    made = recompute(list(sampled.values()), setting, teacher, device)
    return Reproduction(
        url=store.url,
        num_sampled=len(rows),
        num_ok=num_ok,
        differences=tuple(found),
        failures=tuple(_failures(rows, made)),
        arrays=_compared(CheckedParts(store), rows, made),
    )


def _refuse(url: str, found: Sequence[str]) -> None:
    if found:
        raise StoreMismatchError(
            f"{url} was not made from what is at hand:\n  "
            + "\n  ".join(found)
            + "\nTake the teacher, settings and videos that it was made with; --force goes on."
        )


def _sample(
    store: FeatureStore, sources: Mapping[str, ClipSource], num_rows: int, seed: int
) -> tuple[pl.DataFrame, int]:
    """Up to num_rows random rows with data, in the store's order, and how many there are."""
    refuse_below("--sample", num_rows, least=1)
    ok = store.rows().filter(pl.col("outcome") == OK, pl.col("clip_id").is_in(list(sources)))
    if not len(ok):
        raise EgoctlError(
            f"{store.url} has no row with data of a clip of this manifest. "
            "Give the manifest that the store was made from."
        )
    chosen = np.random.default_rng(seed).permutation(len(ok))[:num_rows]
    return ok[np.sort(chosen)], len(ok)


def _other_content(rows: pl.DataFrame, sampled: dict[str, ClipSource]) -> Iterator[str]:
    """Clips whose files or times here are others than in the store."""
    with_imu = "imu_outcome" in rows.columns
    now_of = {row.clip_id: row for row in store_rows(sampled, with_imu=with_imu)}
    changed: dict[str, list[str]] = {}
    for row in rows.iter_rows(named=True):
        now = now_of[row["clip_id"]]
        # Unreadable files are reported later, with their clips.
        if now.clip_key is not None and now.clip_key != row["clip_key"]:
            is_moved = (now.start_s, now.stop_s) != (row["start_s"], row["stop_s"])
            what = "other times" if is_moved else "a video with other content"
            changed.setdefault(what, []).append(now.clip_id)
        is_imu_used = with_imu and row["imu_outcome"] == OK
        if is_imu_used and now.imu_key is not None and now.imu_key != row["imu_key"]:
            changed.setdefault("an IMU file with other content", []).append(now.clip_id)
    for what, clip_ids in changed.items():
        shown = first_names(clip_ids)
        yield f"{len(clip_ids)} clips have {what} here: {shown}"


def _failures(rows: pl.DataFrame, made: Recomputed) -> Iterator[str]:
    """Clips with data in the store that have none here."""
    for stream, reasons in made.reasons.items():
        for index, reason in reasons.items():
            if rows[stream][index] == OK:
                yield f"{rows['clip_id'][index]}: {reason}"


def _compared(parts: CheckedParts, rows: pl.DataFrame, made: Recomputed) -> dict[str, Closeness]:
    """How close the rows are that are stored and could be made anew, by array."""
    found = {}
    for spec in parts.store.header.arrays:
        is_ok_n = (rows[stream_of(spec.name)] == OK).to_numpy()
        made_of = made.arrays.get(spec.name, {})
        indices = [index for index in sorted(made_of) if is_ok_n[index]]
        if not indices:
            continue
        shape = np.shape(made_of[indices[0]])
        if shape != spec.row_shape:
            raise StoreMismatchError(
                f"{parts.store.url}: {spec.name} has rows of shape {spec.row_shape}, this run's "
                f"have {shape}. They cannot be compared."
            )
        stored = parts.read(spec.name, rows["row"].to_numpy()[indices].astype(np.int64))
        anew = [made_of[index] for index in indices]
        if spec.dtype == BYTES:
            pairs = zip(stored, anew, strict=True)
            found[spec.name] = Closeness.joined([_closeness_of_frames(*pair) for pair in pairs])
        else:
            where = f"{spec.name}, made anew"
            values = fitted(np.stack(anew), np.dtype(spec.dtype), where=where)
            found[spec.name] = Closeness.of(stored, values)
    return found


def _closeness_of_frames(stored_K: NDArray[Any], made_K: Sequence[bytes]) -> Closeness:
    """How close the JPEGs of one row are: equal means equal bytes, the rest compares pixels."""
    made = np.stack([simplejpeg.decode_jpeg(item) for item in made_K])
    side_px = made.shape[1]
    if fault := next(filter(None, (jpeg_fault(item, side_px) for item in stored_K)), None):
        raise StoreError(f"a stored frame is no proper JPEG: {fault}.")
    try:
        stored = np.stack([simplejpeg.decode_jpeg(item) for item in stored_K])
    except ValueError as error:
        raise StoreError(f"a stored frame is no proper JPEG: {error}.") from error
    about_grey = [pixels[None].astype(np.int16) - MID_GREY for pixels in (stored, made)]
    return replace(Closeness.of(*about_grey), num_equal=int(list(stored_K) == list(made_K)))

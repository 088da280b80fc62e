"""One store out of several that were made by the same recipe, cut into larger parts."""

# n rows of a part

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.records import IMU_NONE, OK, RowOutcome
from egoctl.pipeline.sharing.checked_parts import CheckedParts, joint_seconds, joint_versions
from egoctl.pipeline.sharing.diff import header_differences
from egoctl.pipeline.some_names import first_names
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part
from egoctl.pipeline.store.clips_file import CLIP_COLUMNS, clips_schema
from egoctl.pipeline.store.header import StoreHeader
from egoctl.pipeline.store.outcomes import OUTCOME_STREAMS, is_failed, streams_in
from egoctl.pipeline.store.receipt import Receipt
from egoctl.pipeline.store.shard_bytes import empty
from egoctl.pipeline.trained_on import TrainedOn

PUBLISHED_PART_ROWS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeReport:
    """What became of the sources' rows."""

    url: str
    num_rows: int
    num_failed: int
    """How many of these rows failed; they are kept with their reasons."""
    num_parts_written: int
    """The others were there already, or somebody else wrote them."""
    num_repeated: int
    """Rows left out because another source has the clip, too."""
    num_unfinished: int
    """Rows left out because their part is not done."""


def merge(
    urls: Sequence[str], out_url: str, *, part_rows: int = PUBLISHED_PART_ROWS
) -> MergeReport:
    """Write all finished rows of the stores into a new one; go on where an earlier run stopped.

    The rows of the first store come first, then what the second adds, and so on. Of a clip that
    several have, the first row with data counts. Every byte is compared with its receipt.

    Raises:
        StoreMismatchError: if recipes, class names or the footage that the teacher was fitted to
            differ, a clip has data from two contents, or out_url holds other rows.
        StoreError: if a source is damaged, or nothing in the sources is done.
    """
    sources = [CheckedParts(FeatureStore.open(url)) for url in urls]
    if any(url.rstrip("/") == out_url.rstrip("/") for url in urls):
        raise StoreError(f"{out_url} is one of the stores to merge. Give --out a new path.")
    _refuse_other_recipes([source.store for source in sources])
    every = _finished_rows(sources)
    chosen = _chosen(every)
    if not len(chosen):
        raise StoreError("none of these stores has a finished part, so there is nothing to merge.")
    header = _merged_header([source.store.header for source in sources], part_rows)
    out = FeatureStore.create(out_url, header, header.arrays)
    try:
        _add_rows(out, _clips(chosen, part_rows))
        num_written = _write_parts(out, chosen, sources)
    finally:
        out.close()
    return MergeReport(
        url=out.url,
        num_rows=len(chosen),
        num_failed=len(chosen.filter(is_failed(chosen))),
        num_parts_written=num_written,
        num_repeated=len(every) - len(chosen),
        num_unfinished=sum(len(source.store.rows()) for source in sources) - len(every),
    )


def merge_lines(found: MergeReport) -> Iterator[str]:
    """The report for people."""
    yield f"{found.url}: {found.num_rows} rows, {found.num_parts_written} parts written now."
    if found.num_failed:
        yield f"{found.num_failed} of them failed; their reasons were kept."
    if found.num_repeated:
        yield f"{found.num_repeated} rows were left out: the clip is in more than one store."
    if found.num_unfinished:
        yield f"{found.num_unfinished} rows were left out: their parts are not done."


def _refuse_other_recipes(stores: Sequence[FeatureStore]) -> None:
    first = stores[0]
    for other in stores[1:]:
        lines = [
            f"{one.field}: {one.left} and {one.right}"
            for one in header_differences(first.header, other.header)
        ]
        if lines:
            raise StoreMismatchError(
                f"{first.url} and {other.url} were not made the same way:\n  "
                + "\n  ".join(lines)
                + "\nOnly stores with one recipe and the same classes can be merged."
            )


def _finished_rows(sources: Sequence[CheckedParts]) -> pl.DataFrame:
    """Every row whose part is done, in order, with the source it is from."""
    frames = [
        source.store.rows()
        .filter(pl.col("part").is_in(list(source.receipts)))
        .with_columns(pl.lit(number, pl.Int64).alias("source"))
        for number, source in enumerate(sources)
    ]
    return pl.concat(frames)


def _chosen(every: pl.DataFrame) -> pl.DataFrame:
    """One row of every clip, in the order in which the clips first come up."""
    for stream, key in zip(OUTCOME_STREAMS, ("clip_key", "imu_key"), strict=True):
        if stream in every.columns:
            _refuse_other_content(every.filter(pl.col(stream) == OK), key)
    # Data before none, frames before IMU, earlier stores before later ones.
    is_missing = [
        pl.col(stream).is_in([OK, IMU_NONE]).not_().alias(f"no {stream}")
        for stream in streams_in(every)
    ]
    numbered = every.with_row_index("order").with_columns(
        pl.col("order").min().over("clip_id").alias("first"), *is_missing
    )
    best = numbered.sort(*(f"no {stream}" for stream in streams_in(every)), "order")
    return best.unique("clip_id", keep="first", maintain_order=True).sort("first")


def _refuse_other_content(with_data: pl.DataFrame, key: str) -> None:
    # Two names of one file's content in different places are fine; one name for two is not.
    clashes = (
        with_data.group_by("clip_id", maintain_order=True)
        .agg(pl.col(key).drop_nulls().n_unique().alias("contents"))
        .filter(pl.col("contents") > 1)["clip_id"]
        .to_list()
    )
    if clashes:
        raise StoreMismatchError(
            f"{len(clashes)} clips have data of different content in these stores (their {key} "
            f"differs): {first_names(clashes)}. "
            "Give the segments of one store other ids, or merge without it."
        )


def _merged_header(headers: Sequence[StoreHeader], part_rows: int) -> StoreHeader:
    """The first header with larger parts, and the largest chunks that any of the stores has."""
    arrays = []
    for spec in headers[0].arrays:
        specs = [found for header in headers if (found := header.array(spec.name)) is not None]
        chunk_rows = max(found.chunk_rows for found in specs)
        arrays.append(replace(spec, chunk_rows=chunk_rows).in_parts_of(part_rows))
    return replace(
        headers[0],
        part_rows=part_rows,
        arrays=tuple(arrays),
        trained_on=_joint_footage([header.trained_on for header in headers]),
    )


def _joint_footage(of_stores: Sequence[TrainedOn | None]) -> TrainedOn | None:
    """The footage that the stores agree on: one set of weights cannot have been fitted to two."""
    known = [footage for footage in of_stores if footage is not None]
    for other in known[1:]:
        if other != known[0]:
            raise StoreMismatchError(
                f"one of these stores says that its teacher was {known[0].sentence()}, another "
                f"that it was {other.sentence()}, with other spans. One of them is wrong: extract "
                "it again with the right --trained-on."
            )
    return known[0] if known else None


def _clips(chosen: pl.DataFrame, part_rows: int) -> pl.DataFrame:
    row = np.arange(len(chosen))
    clips = chosen.with_columns(pl.Series("row", row), pl.Series("part", row // part_rows))
    return clips.select(list(CLIP_COLUMNS)).cast(clips_schema())


def _add_rows(out: FeatureStore, clips: pl.DataFrame) -> None:
    if out.num_rows() == 0:
        out.add_clips(clips)
        return
    if not out.clips().equals(clips):
        raise StoreMismatchError(
            f"{out.url} holds other rows: it was merged from other stores, or these have grown "
            "since. Give --out a new path."
        )
    # An earlier run may have died before it wrote the second copy of the clips file.
    out.append([])


def _write_parts(out: FeatureStore, chosen: pl.DataFrame, sources: Sequence[CheckedParts]) -> int:
    num_written = 0
    parts = out.parts_to_do()
    with Progress(len(parts), title="merge", unit="part") as progress:
        for part in parts:
            rows = chosen[part.first_row : part.first_row + part.num_rows]
            # Claimed before it is read: two who merge into one store share the work.
            if out.claims.take(part.number):
                if out.is_done(part):
                    out.claims.release(part.number)
                else:
                    num_written += _write_part(out, part, rows, sources)
            progress.advance()
    return num_written


def _write_part(
    out: FeatureStore, part: Part, rows: pl.DataFrame, sources: Sequence[CheckedParts]
) -> bool:
    source_n = rows["source"].to_numpy()
    row_n = rows["row"].to_numpy()
    arrays: dict[str, NDArray[Any]] = {}
    for spec in out.header.arrays:
        arrays[spec.name] = empty(spec, len(rows))
        for number in np.unique(source_n).tolist():
            here = source_n == number
            arrays[spec.name][here] = sources[number].read(spec.name, row_n[here])
    origins = [
        sources[source].place_of(row)
        for source, row in zip(source_n.tolist(), row_n.tolist(), strict=True)
    ]
    return out.write_part(
        part,
        arrays,
        _outcomes(origins),
        seconds=joint_seconds(origins),
        versions=joint_versions(origins),
        num_reused=part.num_rows,
    )


def _outcomes(origins: Sequence[tuple[Receipt, int]]) -> dict[str, list[RowOutcome]]:
    streams = origins[0][0].outcomes
    return {stream: [receipt.outcomes[stream][at] for receipt, at in origins] for stream in streams}

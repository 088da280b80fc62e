"""train_clips.parquet: the clips that a run was trained on.

With the digests in config.json it shows whether stores still hold what the run has seen, wherever
they lie now and whatever has been added to them since.
"""

import os
from pathlib import Path

import polars as pl

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.records import OK
from egoctl.pipeline.runs.run_place import RunPlace
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.sources import Sources
from egoctl.student.runs.run_record import RunRecord

TRAIN_CLIPS_FILE = "train_clips.parquet"
_SCHEMA = pl.Schema({"clip_id": pl.String(), "has_target": pl.Boolean()})


def write_trained_clips(folder: Path, clips: ClipSet) -> None:
    """Write the file, atomically; has_target: the teacher's target of the clip was read too."""
    file = folder / TRAIN_CLIPS_FILE
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    columns = {
        "clip_id": [clip.clip_id for clip in clips.clips],
        "has_target": clips.has_target_N.tolist(),
    }
    pl.DataFrame(columns, schema=_SCHEMA).write_parquet(part)
    part.replace(file)


def read_trained_clips(run: RunPlace) -> pl.DataFrame:
    """clip_id and has_target of every clip that the run was trained on.

    Raises:
        EgoctlError: if the run has no such file.
    """
    file = run.folder / TRAIN_CLIPS_FILE
    if not file.is_file():
        raise EgoctlError(
            f"{run.url} does not say which clips it was trained on (no {TRAIN_CLIPS_FILE}). "
            "Train again with a new --run."
        )
    try:
        found = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise EgoctlError(_damaged(run, f"{error}")) from error
    if found.schema != _SCHEMA:
        raise EgoctlError(_damaged(run, f"columns {', '.join(found.columns)}"))
    return found


def refuse_other_rows(run: RunPlace, record: RunRecord, sources: Sources) -> None:
    """Check that the stores hold the rows that the run was trained on, with the same content.

    Where they lie, in which parts, and what else is there makes no difference.

    Raises:
        StoreMismatchError: naming the store, and how many clips it lacks or that they differ.
        EgoctlError: if the run does not say which rows they are.
    """
    clips = read_trained_clips(run)
    with_target = clips.filter("has_target")
    for kind, option, store, seen in (
        ("inputs", "--inputs", sources.inputs, clips["clip_id"]),
        ("teacher", "--store", sources.teacher, with_target["clip_id"]),
    ):
        digest = record.train_digests.get(kind)
        if store is None or digest is None:
            continue
        fault = _fault(store, seen, digest)
        if fault is not None:
            raise StoreMismatchError(
                f"{run.url} was trained on other rows than {store.url} has now: {fault}. "
                f"Give {option} the store that it was trained on, or a copy of that, or train "
                "again with a new --run."
            )


def _fault(store: FeatureStore, clip_ids: pl.Series, digest: str) -> str | None:
    """What differs between the store's rows of these clips and those of the digest, or None."""
    found = store.rows().filter(pl.col("outcome") == OK).select("clip_id", "row")
    joined = clip_ids.to_frame().join(found, on="clip_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("row").is_null())["clip_id"]
    if len(missing):
        return f"{len(missing)} of {len(clip_ids)} clips are missing, such as {missing[0]!r}"
    if store.digest_of(joined["row"].to_numpy()) != digest:
        return f"its {len(clip_ids)} clips are there, but not with the same content"
    return None


def _damaged(run: RunPlace, what: str) -> str:
    return (
        f"{run.url}/{TRAIN_CLIPS_FILE} is damaged ({what}). Train again: the same command goes on "
        "with the run and writes it anew."
    )

"""The files of an analysis: a summary for programs, tables for spreadsheets, a page for people."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from egoctl.pipeline.files.whole_file import write_whole
from egoctl.pipeline.runs.run_folder import write_json
from egoctl.student.analysis.result import Analysis
from egoctl.student.analysis.retrieval import NONE, Retrieval
from egoctl.student.clips.clip_set import ClipSet

REPORT_FILE = "report.html"
_GAIN_SCHEMA = {
    "num_segments": pl.Int64,
    **dict.fromkeys(("top1", "other_top1", "gain", "gain_low", "gain_high"), pl.Float64),
}


def write_files(
    folder: Path, analysis: Analysis, tables: Mapping[str, pl.DataFrame], page: str
) -> None:
    """Write all of them, each atomically.

    Tables without rows are written too: those of an earlier analysis would stay beside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", table.write_csv())
    write_json(folder / "summary.json", dataclasses.asdict(analysis))
    write_whole(folder / REPORT_FILE, page)


def pair_table(analysis: Analysis) -> pl.DataFrame:
    """A row per ambiguous pair; without a result where no segment could be scored."""
    rows = [
        {
            "class_a": pair.names[0],
            "class_b": pair.names[1],
            "num_confused": pair.num_confused,
            "num_a": pair.num_of_each[0],
            "num_b": pair.num_of_each[1],
            **({} if pair.result is None else dataclasses.asdict(pair.result)),
        }
        for pair in analysis.pairs
    ]
    counts = dict.fromkeys(("num_confused", "num_a", "num_b"), pl.Int64)
    schema = {"class_a": pl.String, "class_b": pl.String, **counts, **_GAIN_SCHEMA}
    return pl.DataFrame(rows, schema=schema)


def class_table(analysis: Analysis) -> pl.DataFrame:
    """A row per class, the largest gain first."""
    rows = [{"class": row.name, **dataclasses.asdict(row.result)} for row in analysis.classes]
    return pl.DataFrame(rows, schema={"class": pl.String, **_GAIN_SCHEMA})


def retrieved_table(clips: ClipSet, retrievals: Sequence[Retrieval]) -> pl.DataFrame:
    """A row per clip that was retrieved; imu_clip_id is frame_clip_id where the IMU is its own."""
    ids = [clip.clip_id for clip in clips.clips]
    rows = [
        (item.run, ids[frame], ids[donor], rank, ids[index], similarity)
        for item in retrievals
        for frame, donors, indices_Mk, similarities_Mk in zip(
            item.exchange.frame_Q.tolist(),
            item.exchange.donor_QM.tolist(),
            item.index_QMk.tolist(),
            item.similarity_QMk.tolist(),
            strict=True,
        )
        for donor, indices, similarities in zip(donors, indices_Mk, similarities_Mk, strict=True)
        for rank, (index, similarity) in enumerate(zip(indices, similarities, strict=True), 1)
        if index != NONE
    ]
    schema = {
        "run": pl.String,
        "frame_clip_id": pl.String,
        "imu_clip_id": pl.String,
        "rank": pl.Int64,
        "clip_id": pl.String,
        "similarity": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")

"""An analysis: its settings, what it finds, and its files (JSON, CSV tables, a page)."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.whole_file import write_whole
from egoctl.pipeline.runs.run_folder import write_json
from egoctl.student.analysis.analysed_clips import ClipResult, MotionGroup
from egoctl.student.analysis.class_gains import ClassGain, PairGain
from egoctl.student.analysis.feature_space import FeatureMetrics
from egoctl.student.analysis.retrieval import NONE, ExchangeMetrics, NeighbourRecall, Retrieval
from egoctl.student.clips.clip_set import ClipSet

REPORT_FILE = "report.html"
_GAIN_SCHEMA = {
    "num_segments": pl.Int64,
    **dict.fromkeys(("top1", "other_top1", "gain", "gain_low", "gain_high"), pl.Float64),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisConfig:
    """Which split and pairs to analyse, and how many clips."""

    split: str = "test"
    pairs: str | None = None
    """'open,close;put,take'; None: those that the other run confuses most."""
    num_queries: int = 1000
    """Clips, drawn at random; their neighbours are searched among all clips."""
    num_examples: int = 6
    """Clips the report shows of each kind."""
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--queries", self.num_queries, 1),
            ("--examples", self.num_examples, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise EgoctlError(f"{option} must be {least} or more, got {value}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAnalysis:
    """One run's feature space."""

    run: str
    method: str
    features: FeatureMetrics | None
    """None: no clip has a target."""
    neighbours: tuple[NeighbourRecall, ...]
    gallery: str
    """Features that clips are retrieved by: those of the 'teacher', or the 'student''s own."""
    exchange: ExchangeMetrics | None
    """None: all clips are of one segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All results; both runs are compared on the same clips."""

    report: str
    """Path or URL of the HTML file; the other files lie beside it."""
    config: AnalysisConfig
    num_segments: int
    """Segments with a clip."""
    num_scored: int
    """Segments with a clip and a label."""
    num_clips: int
    num_target_clips: int
    left_out: Mapping[str, int]
    """Clips that the run cannot use, by reason."""
    num_not_in_common: int
    """Clips that the run can use and the other cannot."""
    run: RunAnalysis
    other: RunAnalysis | None
    by_motion: tuple[MotionGroup, ...]
    best: tuple[ClipResult, ...]
    worst: tuple[ClipResult, ...]
    pairs: tuple[PairGain, ...]
    classes: tuple[ClassGain, ...]


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

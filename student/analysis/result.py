"""The records of an analysis: what is asked, and everything that is found."""

from collections.abc import Mapping
from dataclasses import dataclass

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.analysis.analysed_clips import ClipResult, MotionGroup
from egoctl.student.analysis.class_gains import ClassGain, PairGain
from egoctl.student.analysis.feature_space import FeatureMetrics
from egoctl.student.analysis.retrieval import ExchangeMetrics, NeighbourRecall


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisConfig:
    """What to look at, and how much of it."""

    split: str = "test"
    pairs: str | None = None
    """'open,close;put,take'; None: those that the other run confuses most."""
    num_queries: int = 1000
    """Clips, drawn at random, whose neighbours are looked for among all clips."""
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
    """In whose features clips are retrieved: the 'teacher', or the 'student' itself."""
    exchange: ExchangeMetrics | None
    """None: all clips are of one segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """All of it; both runs are asked about the same clips."""

    report: str
    """Path or URL of the HTML file; the other files lie beside it."""
    config: AnalysisConfig
    num_segments: int
    """Segments with a clip."""
    num_scored: int
    """Those of them with a label."""
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

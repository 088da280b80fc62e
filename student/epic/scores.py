"""Scores of EPIC-KITCHENS segments from two students: one of verbs, one of nouns."""

# S segments, V verbs (97), N nouns (300)

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.records import FloatArray, Segment
from egoctl.pipeline.runs.run_place import RunPlace, run_folder_at
from egoctl.student.evaluation.evaluate import file_suffix
from egoctl.student.runs.run_record import read_run

NUM_VERBS = 97
NUM_NOUNS = 300
_KIND_OF = {NUM_VERBS: "verb", NUM_NOUNS: "noun"}
_SMALLEST = 1e-9
"""Probabilities are floored here before their logarithm is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpicScores:
    """Log probabilities of every segment of a split, in the manifest's order."""

    segments: tuple[Segment, ...]
    verb_SV: FloatArray
    noun_SN: FloatArray
    missing: tuple[str, ...]
    """Segments that a student has no prediction for: all its classes score the same."""

    def __post_init__(self) -> None:
        count = len(self.segments)
        wanted = ((count, NUM_VERBS), (count, NUM_NOUNS))
        if (self.verb_SV.shape, self.noun_SN.shape) != wanted:
            raise ValueError(f"scores of {count} segments must be (S, 97) and (S, 300)")

    def missing_lines(self) -> Iterator[str]:
        """What is missing, for people."""
        if self.missing:
            shown = ", ".join(self.missing[:5]) + (" ..." if len(self.missing) > 5 else "")
            yield (
                f"without a prediction, so all classes score the same: {len(self.missing):,} "
                f"segments ({shown})."
            )


def read_epic_scores(runs: Sequence[str], *, split: str, manifest: str | None = None) -> EpicScores:
    """The predictions that `egoctl evaluate` left in a run of verbs and a run of nouns.

    manifest: path or URL; without it the one that the run of verbs was trained with.

    Raises:
        EgoctlError: unless the runs are one of 97 and one of 300 classes, with predictions of the
            split's segments.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for url in runs:
        with run_folder_at(url) as run:
            record = read_run(run)
            kind = _KIND_OF.get(len(record.class_names))
            if kind is None or kind in found:
                raise _wrong_runs(f"{url} has {len(record.class_names)} classes")
            found[kind] = _predictions(run, split)
            if kind == "verb":
                manifest = manifest or record.train.manifest
    if len(found) < 2:
        raise _wrong_runs(f"got {', '.join(runs)}")
    assert manifest is not None, "the run of verbs named one"
    segments = tuple(s for s in read_manifest(manifest).segments if s.split == split)
    ids = [segment.segment_id for segment in segments]
    for kind, predictions in found.items():
        if strange := sorted(set(predictions) - set(ids)):
            raise EgoctlError(
                f"the run of {kind}s has a prediction of {strange[0]!r}, which is not in split "
                f"{split!r} of {manifest}. Evaluate both runs on the same segments."
            )
    return EpicScores(
        segments=segments,
        verb_SV=_log_probabilities(ids, found["verb"], NUM_VERBS),
        noun_SN=_log_probabilities(ids, found["noun"], NUM_NOUNS),
        missing=tuple(name for name in ids if any(name not in one for one in found.values())),
    )


def _wrong_runs(what: str) -> EgoctlError:
    return EgoctlError(
        f"{what}; wanted one run of the {NUM_VERBS} verbs and one of the {NUM_NOUNS} nouns, from "
        "'egoctl manifest build epic-kitchens --label verb' and '--label noun'."
    )


def _predictions(run: RunPlace, split: str) -> dict[str, list[float]]:
    file: Path = run.folder / f"predictions{file_suffix(split, 'own')}.parquet"
    if not file.is_file():
        raise EgoctlError(
            f"{run.name_of(file)} is not there. Run 'egoctl evaluate {run.url} --split {split}' "
            "first."
        )
    table = pl.read_parquet(file, columns=["segment_id", "probabilities"])
    return dict(zip(table["segment_id"], table["probabilities"].to_list(), strict=True))


def _log_probabilities(
    ids: Sequence[str], predictions: dict[str, list[float]], num_classes: int
) -> FloatArray:
    """(S, C); the same for every class where there is no prediction."""
    even = [1 / num_classes] * num_classes
    probability_SC = np.array([predictions.get(name, even) for name in ids], dtype=np.float64)
    log_SC = np.log(np.maximum(probability_SC, _SMALLEST))
    return np.asarray(log_SC.reshape(len(ids), num_classes))

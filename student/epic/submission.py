"""The file that EPIC-KITCHENS' action recognition challenge takes: test.json in a zip."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.whole_file import whole_file
from egoctl.student.epic.scores import EpicScores

_DECIMALS = 6
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The same scores are the same file, whenever they are written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisionLevels:
    """What a method learnt from, 0 to 5 each, as github.com/epic-kitchens/sls defines them."""

    pretraining: int
    training_labels: int
    training_data: int

    def __post_init__(self) -> None:
        for name, level in (
            ("--sls-pt", self.pretraining),
            ("--sls-tl", self.training_labels),
            ("--sls-td", self.training_data),
        ):
            if not 0 <= level <= 5:
                raise EgoctlError(f"{name} must be 0 to 5, got {level}.")


def write_submission(
    scores: EpicScores, levels: SupervisionLevels, out: Path, *, overwrite: bool = False
) -> None:
    """Write the zip, atomically.

    Scores are log probabilities: the challenge multiplies the softmax of verbs and nouns to score
    actions, and the softmax of log probabilities gives the probabilities back.

    Raises:
        EgoctlError: if out exists and is not to be overwritten, or there is no segment.
    """
    if out.exists() and not overwrite:
        raise EgoctlError(f"{out} exists. Pass --force to overwrite it, or another --out.")
    if not scores.segments:
        raise EgoctlError("the split holds no segment, so there is nothing to submit.")
    content = {
        "version": "0.2",
        "challenge": "action_recognition",
        "sls_pt": levels.pretraining,
        "sls_tl": levels.training_labels,
        "sls_td": levels.training_data,
        "results": {
            segment.segment_id: {"verb": _by_class(verb_V), "noun": _by_class(noun_N)}
            for segment, verb_V, noun_N in zip(
                scores.segments, scores.verb_SV.tolist(), scores.noun_SN.tolist(), strict=True
            )
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as zipped:
        info = zipfile.ZipInfo("test.json", date_time=_ZIP_TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        zipped.writestr(info, json.dumps(content, allow_nan=False))


def _by_class(scores: list[float]) -> dict[str, float]:
    return {str(number): round(score, _DECIMALS) for number, score in enumerate(scores)}

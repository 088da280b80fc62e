"""The official accuracies of EPIC-KITCHENS-100 action recognition, under their official names."""

# S segments, V verbs (97), N nouns (300), K best classes (5)

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.epic.scores import NUM_NOUNS, EpicScores

TOP = 5
TAIL_VERBS = "EPIC_100_tail_verbs.csv"
TAIL_NOUNS = "EPIC_100_tail_nouns.csv"
UNSEEN = "EPIC_100_unseen_participant_ids_validation.csv"
_BATCH = 256
"""Segments ranked at once, over 29,100 actions each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpicGroups:
    """Which classes are rare and which participants have no video in the training split."""

    tail_verbs: frozenset[int]
    tail_nouns: frozenset[int]
    unseen_participants: frozenset[str]


def read_groups(annotations: Path) -> EpicGroups:
    """The groups in the folder of the official annotations.

    Raises:
        EgoctlError: if one of the three files is missing or has another form.
    """

    def column(file: str, name: str) -> list[str]:
        try:
            with (annotations / file).open(encoding="utf-8-sig", newline="") as lines:
                return [row[name] for row in csv.DictReader(lines)]
        except (OSError, KeyError) as error:
            raise EgoctlError(
                f"{annotations / file} is not there, or has no column {name}. Take it from the "
                "official annotations."
            ) from error

    try:
        tail = [
            frozenset(map(int, column(file, name)))
            for file, name in ((TAIL_VERBS, "verb"), (TAIL_NOUNS, "noun"))
        ]
    except ValueError as error:
        raise EgoctlError(f"{annotations}: tail classes must be numbers ({error}).") from error
    return EpicGroups(
        tail_verbs=tail[0],
        tail_nouns=tail[1],
        unseen_participants=frozenset(column(UNSEEN, "participant_id")),
    )


def official_metrics(scores: EpicScores, groups: EpicGroups) -> dict[str, float]:
    """Percent by official name, such as all_action_accuracy_at_1; groups without segments lack.

    An action's score is the product of its verb's and its noun's probability. A tail action has a
    tail verb or a tail noun. Only 'all' has accuracies at 5. Segments without labels do not count.
    """
    verb_S = np.array([-1 if s.verb_class is None else s.verb_class for s in scores.segments])
    noun_S = np.array([-1 if s.noun_class is None else s.noun_class for s in scores.segments])
    is_labelled_S = (verb_S >= 0) & (noun_S >= 0)
    best = {
        "verb": (_best(scores.verb_SV), verb_S),
        "noun": (_best(scores.noun_SN), noun_S),
        "action": (_best_actions(scores), verb_S * NUM_NOUNS + noun_S),
    }
    is_right_SK = {task: best_SK == label_S[:, None] for task, (best_SK, label_S) in best.items()}
    is_unseen_S = np.array(
        [s.participant_id in groups.unseen_participants for s in scores.segments]
    )
    tail_verb_S = np.isin(verb_S, list(groups.tail_verbs))
    tail_noun_S = np.isin(noun_S, list(groups.tail_nouns))
    members = {
        ("all", 1): dict.fromkeys(best, is_labelled_S),
        ("all", 5): dict.fromkeys(best, is_labelled_S),
        ("unseen", 1): dict.fromkeys(best, is_labelled_S & is_unseen_S),
        ("tail", 1): {
            "verb": is_labelled_S & tail_verb_S,
            "noun": is_labelled_S & tail_noun_S,
            "action": is_labelled_S & (tail_verb_S | tail_noun_S),
        },
    }
    return {
        f"{group}_{task}_accuracy_at_{k}": 100 * float(is_right_SK[task][is_in_S, :k].any(1).mean())
        for (group, k), of_task in members.items()
        for task, is_in_S in of_task.items()
        if is_in_S.any()
    }


def metric_lines(metrics: dict[str, float]) -> Iterator[str]:
    """A line per metric, for people."""
    for name, percent in metrics.items():
        yield f"{name:<28} {percent:6.2f} %"


def _best(score_SC: NDArray[np.floating]) -> NDArray[np.intp]:
    """(S, K) the best classes first; of equal ones the lower number."""
    return np.argsort(-score_SC, axis=1, kind="stable")[:, :TOP]


def _best_actions(scores: EpicScores) -> NDArray[np.intp]:
    """(S, K) as verb * 300 + noun."""
    found = []
    for first in range(0, len(scores.segments), _BATCH):
        rows = slice(first, first + _BATCH)
        log_SVN = scores.verb_SV[rows, :, None] + scores.noun_SN[rows, None, :]
        found.append(_best(log_SVN.reshape(len(log_SVN), -1)))
    return np.concatenate(found)

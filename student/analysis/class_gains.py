"""Where one student is better than another: by class, and within pairs of similar classes."""

# S scored segments, C classes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError

NUM_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A student's accuracy, another's on the same segments, and the difference."""

    num_segments: int
    top1: float
    other_top1: float
    gain: float
    """top1 - other_top1 ..."""
    gain_low: float
    """... and its 95 % bootstrap interval over segments."""
    gain_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassGain:
    """Top-1 among all classes, over the segments of one."""

    name: str
    result: Gain


@dataclass(frozen=True, kw_only=True, slots=True)
class PairGain:
    """Which of the two, over the segments of both: the likelier one counts as the answer."""

    names: tuple[str, str]
    num_confused: int
    """Segments of one that the other run took for the other, among those it was chosen by."""
    num_of_each: tuple[int, int]
    """Segments of each that it is scored on."""
    result: Gain | None
    """None: there are none."""


def paired_gain(is_right_S: Tensor, other_is_right_S: Tensor, *, seed: int) -> Gain:
    """The gain of one student over another on the same segments, of which there is at least one.

    The bootstrap draws segments with replacement. Each adds +1, 0 or -1, so the counts of these
    are drawn at once, from a multinomial distribution. It takes segments to be independent;
    those of one video are not quite, and the interval is then too narrow.
    """
    num = len(is_right_S)
    step_S = is_right_S.long() - other_is_right_S.long()
    shares = [float((step_S == step).double().mean()) for step in (-1, 0, 1)]
    drawn = np.random.default_rng(seed).multinomial(num, shares, size=NUM_RESAMPLES)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / num, [0.025, 0.975])
    top1 = float(is_right_S.double().mean())
    other_top1 = float(other_is_right_S.double().mean())
    return Gain(
        num_segments=num,
        top1=top1,
        other_top1=other_top1,
        gain=top1 - other_top1,
        gain_low=float(low),
        gain_high=float(high),
    )


def class_gains(
    score_SC: Tensor, other_SC: Tensor, label_S: Tensor, *, names: Sequence[str], seed: int
) -> tuple[ClassGain, ...]:
    """The gain at every class with a segment, the largest first; of equal ones that with more."""
    is_right_S, other_is_right_S = (
        scores.argmax(dim=1) == label_S for scores in (score_SC, other_SC)
    )
    rows = [
        ClassGain(
            name=names[label],
            result=paired_gain(
                is_right_S[label_S == label], other_is_right_S[label_S == label], seed=seed
            ),
        )
        for label in sorted(set(label_S.tolist()))
    ]
    return tuple(sorted(rows, key=lambda row: (-row.result.gain, -row.result.num_segments)))


def most_confused(
    score_SC: Tensor, label_S: Tensor, *, at_most: int
) -> tuple[tuple[int, int], ...]:
    """Pairs of classes (smaller label first) taken for each other, the most often confused first.

    Pairs that are never confused are none.
    """
    wrong_S = score_SC.argmax(dim=1) != label_S
    pair_S2 = torch.stack([score_SC[wrong_S].argmax(dim=1), label_S[wrong_S]], dim=1)
    pairs, count = torch.unique(pair_S2.sort(dim=1).values, dim=0, return_counts=True)
    order = count.argsort(descending=True, stable=True)[:at_most]
    return tuple((int(left), int(right)) for left, right in pairs[order].tolist())


def halves(num_segments: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Two masks (S,): the segments that pairs are chosen by, and those that they are scored on.

    On the same segments the choice alone would make a gain: a pair that the other run confused
    by bad luck would look like one that this run resolves.
    """
    order = np.random.default_rng(seed).permutation(num_segments)
    chosen_by_S = torch.zeros(num_segments, dtype=torch.bool)
    chosen_by_S[torch.from_numpy(order[: num_segments // 2].copy())] = True
    return chosen_by_S, ~chosen_by_S


def pair_gain(
    pair: tuple[int, int],
    score_SC: Tensor,
    other_SC: Tensor,
    label_S: Tensor,
    *,
    chosen_by_S: Tensor,
    scored_S: Tensor,
    names: Sequence[str],
    seed: int,
) -> PairGain:
    """One pair's confusions in the one half, and the accuracy within it in the other."""
    left, right = pair
    of_pair_S = (label_S == left) | (label_S == right)
    other_answer_S = other_SC.argmax(dim=1)
    confused_S = (
        of_pair_S
        & (other_answer_S != label_S)
        & ((other_answer_S == left) | (other_answer_S == right))
    )
    mine_S = of_pair_S & scored_S
    result = None
    if mine_S.any():
        is_left_S = label_S[mine_S] == left
        result = paired_gain(
            (score_SC[mine_S, left] > score_SC[mine_S, right]) == is_left_S,
            (other_SC[mine_S, left] > other_SC[mine_S, right]) == is_left_S,
            seed=seed,
        )
    return PairGain(
        names=(names[left], names[right]),
        num_confused=int((confused_S & chosen_by_S).sum()),
        num_of_each=(
            int((mine_S & (label_S == left)).sum()),
            int((mine_S & ~(label_S == left)).sum()),
        ),
        result=result,
    )


def pairs_named(text: str, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs of "open,close;put,take" as labels, in the order given.

    Raises:
        EgoctlError: if it is no such list, or a name is no class.
    """
    label_of = {name: label for label, name in enumerate(names)}
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        words = [word.strip() for word in part.split(",")]
        if len(words) != 2 or words[0] == words[1]:
            raise EgoctlError(f"--pairs wants two classes each, as in 'open,close', got {part!r}.")
        for word in words:
            if word not in label_of:
                known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                raise EgoctlError(f"--pairs: no class is called {word!r}; there are {known}.")
        pairs.append((label_of[words[0]], label_of[words[1]]))
    if not pairs:
        raise EgoctlError("--pairs names no pair; write it as in 'open,close;put,take'.")
    return tuple(pairs)

"""Gains by class and within pairs of classes, and how far luck reaches."""

import numpy as np
import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.analysis.class_gains import (
    class_gains,
    halves,
    most_confused,
    pair_gain,
    paired_gain,
    pairs_named,
)

NAMES = ("open", "close", "put", "take")


def scores(*answers):
    """(S, 4) sure of each answer."""
    return torch.nn.functional.one_hot(torch.tensor(answers), 4).float()


def test_a_gain_is_the_difference_over_the_same_segments():
    gain = paired_gain(
        torch.tensor([True, True, True, False]), torch.tensor([True, False, False, False]), seed=0
    )

    assert (gain.num_segments, gain.top1, gain.other_top1, gain.gain) == (4, 0.75, 0.25, 0.5)
    assert gain.gain_low == 0.0
    assert gain.gain_high == 1.0


def test_the_interval_is_that_of_drawing_segments_with_replacement():
    rng = np.random.default_rng(3)
    mine, other = rng.random(60) < 0.7, rng.random(60) < 0.4

    gain = paired_gain(torch.from_numpy(mine), torch.from_numpy(other), seed=0)

    drawn = [
        (mine[at].mean() - other[at].mean())
        for at in (rng.integers(60, size=60) for _ in range(4000))
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert gain.gain_low == pytest.approx(low, abs=0.035)
    assert gain.gain_high == pytest.approx(high, abs=0.035)
    assert gain.gain_low < gain.gain < gain.gain_high


def test_runs_that_answer_alike_gain_nothing_for_sure():
    right = torch.tensor([True, False, True])

    gain = paired_gain(right, right, seed=0)

    assert (gain.gain, gain.gain_low, gain.gain_high) == (0.0, 0.0, 0.0)


def test_classes_are_ordered_by_gain():
    label = torch.tensor([0, 0, 1, 1, 2])

    found = class_gains(scores(0, 1, 1, 1, 3), scores(0, 0, 0, 1, 3), label, names=NAMES, seed=0)

    assert [(row.name, row.result.num_segments, row.result.gain) for row in found] == [
        ("close", 2, 0.5),
        ("put", 1, 0.0),
        ("open", 2, -0.5),
    ]


def test_the_most_confused_pairs_are_those_taken_for_each_other():
    label = torch.tensor([0, 1, 1, 2, 3, 3, 0])

    pairs = most_confused(scores(1, 0, 0, 3, 3, 0, 0), label, at_most=2)

    # open/close three times, then put/take and open/take once each: the smaller labels first.
    assert pairs == ((0, 1), (0, 3))
    assert most_confused(scores(*label.tolist()), label, at_most=2) == ()


def test_segments_that_choose_pairs_are_not_those_that_score_them():
    chosen_by, scored = halves(9, seed=1)

    assert (int(chosen_by.sum()), int(scored.sum())) == (4, 5)
    assert not (chosen_by & scored).any()
    assert torch.equal(halves(9, seed=1)[0], chosen_by)


def test_within_a_pair_the_likelier_of_the_two_is_the_answer():
    label = torch.tensor([0, 0, 1, 1, 2])
    # Of the first segment take is likeliest, but of the two it is open.
    mine = torch.tensor(
        [[0.3, 0.1, 0, 0.6], [1, 0, 0, 0], [0, 1, 0, 0], [0.6, 0.4, 0, 0], [0, 0, 1, 0]]
    )
    other = scores(1, 1, 1, 1, 2)
    chosen_by = torch.tensor([True, False, False, False, False])

    found = pair_gain(
        (0, 1),
        mine,
        other,
        label,
        chosen_by_S=chosen_by,
        scored_S=torch.ones(5, dtype=torch.bool),
        names=NAMES,
        seed=0,
    )

    assert (found.names, found.num_confused, found.num_of_each) == (("open", "close"), 1, (2, 2))
    assert (found.result.num_segments, found.result.top1, found.result.other_top1) == (4, 0.75, 0.5)


def test_a_pair_without_segments_has_no_accuracy():
    everything = torch.ones(2, dtype=torch.bool)

    found = pair_gain(
        (2, 3),
        scores(0, 1),
        scores(0, 1),
        torch.tensor([0, 1]),
        chosen_by_S=everything,
        scored_S=everything,
        names=NAMES,
        seed=0,
    )

    assert (found.num_of_each, found.result) == ((0, 0), None)


def test_pairs_are_read_by_name():
    assert pairs_named("open,close; take , put", NAMES) == ((0, 1), (3, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open", "two classes each"),
        ("open,close,put", "two classes each"),
        ("open,open", "two classes each"),
        ("open,shut", "no class is called 'shut'; there are open, close, put, take"),
        (" ; ", "names no pair"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(text, message):
    with pytest.raises(EgoctlError, match=message):
        pairs_named(text, NAMES)

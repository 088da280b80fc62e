"""Which stored frames a student sees, against the paper's times and against plain enumeration."""

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import Clip
from egoctl.pipeline.sampling import uniform_times
from egoctl.student.model.frame_selection import selected_frames

CLIP = Clip(clip_id="c", segment_id="s", video_id="v", start_s=10.0, stop_s=18.0)


def picked(selection, num_frames, num_stored, num_clips=1, seed=0, epoch=0):
    return selected_frames(
        selection,
        num_frames=num_frames,
        num_stored=num_stored,
        num_clips=num_clips,
        seed=seed,
        epoch=epoch,
    ).tolist()


@pytest.mark.parametrize(
    ("num_frames", "stores"),
    [(1, [1, 3, 5, 7, 9, 11]), (2, [2, 6, 10]), (3, [3, 9]), (4, [4, 12])],
)
def test_uniform_frames_come_from_exactly_the_stores_that_hold_their_times(num_frames, stores):
    wanted = uniform_times(CLIP, num_frames)
    found = []
    for num_stored in range(1, 13):
        stored = uniform_times(CLIP, num_stored)
        holds_all = all(np.abs(stored - time).min() < 1e-9 for time in wanted)
        if holds_all:
            times = stored[picked("uniform", num_frames, num_stored)[0]]
            np.testing.assert_allclose(times, wanted, atol=1e-9)
            found.append(num_stored)
        else:
            with pytest.raises(EgoctlError, match="uniform frame"):
                picked("uniform", num_frames, num_stored)

    assert found == stores


def test_uniform_frames_that_are_not_stored_name_the_stores_that_have_them():
    with pytest.raises(EgoctlError) as caught:
        picked("uniform", 4, 3)

    assert str(caught.value) == (
        "4 uniform frames of a clip need an inputs store made with --frames 4 or 12; this one has "
        "3. Extract such a store, ask for another number with --frames, or for neighbours with "
        "--frame-selection center."
    )


@pytest.mark.parametrize(
    ("selection", "num_frames", "indices"),
    [
        ("first", 4, [0, 1, 2, 3]),
        ("last", 4, [8, 9, 10, 11]),
        ("center", 4, [4, 5, 6, 7]),
        ("center", 1, [5]),  # of two middles the earlier
        ("first", 1, [0]),
        ("last", 12, list(range(12))),
    ],
)
def test_first_last_and_center_are_neighbours_at_that_place(selection, num_frames, indices):
    assert picked(selection, num_frames, 12, num_clips=2, epoch=3) == [indices, indices]


def test_random_frames_are_in_time_order_and_differ_between_clips_epochs_and_seeds():
    found = picked("random", 4, 12, num_clips=50, seed=1, epoch=2)

    assert all(row == sorted(set(row)) and 0 <= row[0] and row[-1] < 12 for row in found)
    assert found == picked("random", 4, 12, num_clips=50, seed=1, epoch=2)
    assert found != picked("random", 4, 12, num_clips=50, seed=1, epoch=3)
    assert found != picked("random", 4, 12, num_clips=50, seed=2, epoch=2)
    assert len({tuple(row) for row in found}) > 40


def test_random_frames_are_each_as_likely():
    counts = np.bincount(np.ravel(picked("random", 3, 12, num_clips=4000)), minlength=12)

    # 1000 of each are expected, with a standard deviation of 27.
    assert np.abs(counts - 1000).max() < 120


@pytest.mark.parametrize("selection", ["random", "first", "last", "center"])
def test_more_frames_than_are_stored_are_refused(selection):
    with pytest.raises(EgoctlError, match="holds 3 frames of a clip, but --frames is 4"):
        picked(selection, 4, 3)

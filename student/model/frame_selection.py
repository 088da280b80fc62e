"""Which of a clip's stored frames a student sees: pure functions of numbers.

An inputs store keeps K frames of a clip, at the middles of K equal bins. The paper's uniform
sampling of N frames takes the middles of N equal bins, so its times are among the stored ones
exactly if K / N is an odd whole number:

    N uniform frames   inputs stores made with --frames
    1                  1, 3, 5, 7, ...   any odd number
    2                  2, 6, 10, ...
    3                  3, 9, 15, ...
    4                  4, 12, 20, ...

No store serves both N = 1 and N = 4. Other K would give other times, and are refused.
"""

# N clips, F frames the student sees, K stored frames of a clip

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.student_config import FrameSelection

RANDOM_STREAM = 0x66726D
"""Apart from the numbers that order an epoch's clips and drop out units."""


def selected_frames(
    selection: FrameSelection,
    *,
    num_frames: int,
    num_stored: int,
    num_clips: int,
    seed: int,
    epoch: int,
) -> NDArray[np.int64]:
    """(N, F) indices of stored frames, in time order.

    uniform: the paper's times. first, last, center: neighbours among the stored frames at the
    beginning, the end or the middle of the clip (of two middles the earlier). random: any, drawn
    without repetition; the same for the same (seed, epoch, clip), and for other selections seed
    and epoch make no difference.

    Raises:
        EgoctlError: if the store does not hold the frames that are asked for.
    """
    if selection == "uniform":
        if num_stored % num_frames or num_stored // num_frames % 2 == 0:
            raise EgoctlError(
                f"{num_frames} uniform frame{'s' if num_frames > 1 else ''} of a clip need an "
                f"inputs store made with --frames {num_frames} or {3 * num_frames}; this one has "
                f"{num_stored}. Extract such a store, ask for another number with --frames, or "
                "for neighbours with --frame-selection center."
            )
        step = num_stored // num_frames
        return _rows(step // 2 + step * np.arange(num_frames), num_clips)
    if num_frames > num_stored:
        raise EgoctlError(
            f"the inputs store holds {num_stored} frames of a clip, but --frames is {num_frames}. "
            "Ask for fewer, or extract an inputs store with more."
        )
    if selection == "random":
        random = np.random.default_rng([seed, epoch, RANDOM_STREAM]).random((num_clips, num_stored))
        picked_NF: NDArray[np.int64] = np.sort(random.argsort(axis=1)[:, :num_frames], axis=1)
        return picked_NF
    spare = num_stored - num_frames
    start = {"first": 0, "last": spare, "center": spare // 2}[selection]
    return _rows(start + np.arange(num_frames), num_clips)


def _rows(picked_F: NDArray[np.int64], num_clips: int) -> NDArray[np.int64]:
    return np.tile(picked_F, (num_clips, 1))

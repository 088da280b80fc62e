"""The rows of one part in memory, as they come in and until they are written."""

# n rows of a part, D feature width, C classes, K stored frames, W IMU samples

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.reading.clip_job import InputsView
from egoctl.pipeline.reading.clip_reader import ReadClip
from egoctl.pipeline.records import OK, RowOutcome, TeacherSpec, TeacherTargets

NOT_FINITE = RowOutcome(
    code="teacher_not_finite",
    reason="the teacher's feature or logits for this clip are not finite numbers; check its "
    "weights, or start a new store with --precision fp32",
)
NOT_FILLED = RowOutcome(code="not_filled", reason="nobody read or copied this row")
"""What every row is until somebody fills it; never written."""


class PartBuffer:
    """Arrays and outcomes per kind of store; values that never come stay NaN or empty."""

    def __init__(
        self, num_rows: int, *, teacher: TeacherSpec | None, inputs: InputsView | None
    ) -> None:
        """For the kinds of store that are given; num_rows is of the whole part."""
        self.arrays: dict[str, dict[str, NDArray[Any]]] = {}
        self.outcomes: dict[str, dict[str, list[RowOutcome]]] = {}
        if teacher is not None:
            self.arrays["teacher"] = {"feature": _nan(num_rows, teacher.feature_dim)}
            if teacher.num_classes:
                self.arrays["teacher"]["logits"] = _nan(num_rows, teacher.num_classes)
            self.outcomes["teacher"] = {"outcome": [NOT_FILLED] * num_rows}
        if inputs is not None:
            frames_nK = np.empty((num_rows, inputs.num_frames), dtype=object)
            frames_nK.fill(b"")
            self.arrays["inputs"] = {
                "frames": frames_nK,
                "frame_time": np.full((num_rows, inputs.num_frames), np.nan),
                "imu": _nan(num_rows, inputs.imu_samples, 6),
                "imu_mean": _nan(num_rows, 6),
            }
            self.outcomes["inputs"] = {
                "outcome": [NOT_FILLED] * num_rows,
                "imu_outcome": [NOT_FILLED] * num_rows,
            }

    def put(self, clip: ReadClip) -> None:
        """What was read of a clip; its targets follow."""
        if "teacher" in self.outcomes:
            self.outcomes["teacher"]["outcome"][clip.index] = clip.teacher_outcome
        inputs = self.arrays.get("inputs")
        if inputs is None:
            return
        self.outcomes["inputs"]["outcome"][clip.index] = clip.inputs_outcome
        self.outcomes["inputs"]["imu_outcome"][clip.index] = clip.imu_outcome
        if clip.inputs_outcome.code == OK:
            inputs["frames"][clip.index] = clip.jpegs
            inputs["frame_time"][clip.index] = clip.frame_times_s
        if clip.imu is not None:
            inputs["imu"][clip.index] = clip.imu.samples_W6
            inputs["imu_mean"][clip.index] = clip.imu.mean_6

    def put_targets(self, rows: Sequence[int], found: TeacherTargets) -> None:
        """The targets of these rows, in this order."""
        for at, row in enumerate(rows):
            feature_D, logits_C = found.feature_ND[at], found.logits_NC[at]
            if np.isfinite(feature_D).all() and np.isfinite(logits_C).all():
                self.arrays["teacher"]["feature"][row] = feature_D
                if "logits" in self.arrays["teacher"]:
                    self.arrays["teacher"]["logits"][row] = logits_C
            else:
                self.outcomes["teacher"]["outcome"][row] = NOT_FINITE

    def check_filled(self) -> None:
        """Refuse to pass on a part of which somebody forgot rows.

        Raises:
            ValueError: if a row has no outcome yet.
        """
        for kind, streams in self.outcomes.items():
            for stream, outcomes in streams.items():
                rows = [row for row, outcome in enumerate(outcomes) if outcome is NOT_FILLED]
                if rows:
                    raise ValueError(f"rows {rows} of a part were not filled ({kind}, {stream})")


def _nan(*shape: int) -> NDArray[np.float32]:
    return np.full(shape, np.nan, dtype=np.float32)

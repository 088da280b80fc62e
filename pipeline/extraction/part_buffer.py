"""The rows of one part in memory, as they come in and until they are written."""

# N clips of a batch, D feature width, C classes, W IMU samples

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.extraction.plan import FilledStore
from egoctl.pipeline.reading.clip_reader import ReadClip
from egoctl.pipeline.records import RowOutcome, TeacherTargets
from egoctl.pipeline.store.header import BYTES, ArraySpec

NOT_FINITE = RowOutcome(
    code="teacher_not_finite",
    reason="the teacher's feature or logits for this clip are not finite numbers; check its "
    "weights, or start a new store with --precision fp32",
)
NOT_FILLED = RowOutcome(code="not_filled", reason="nobody read or copied this row")
"""What every row is until somebody fills it; never written."""


class PartBuffer:
    """Arrays and outcomes per filled store; values that never come stay NaN or empty."""

    def __init__(self, num_rows: int, stores: Iterable[FilledStore]) -> None:
        """Room for num_rows, all those of the part, in each of the stores that it fills."""
        self.arrays: dict[str, dict[str, NDArray[Any]]] = {}
        self.outcomes: dict[str, dict[str, list[RowOutcome]]] = {}
        for store in stores:
            self.arrays[store.name] = {spec.name: _blank(spec, num_rows) for spec in store.arrays}
            self.outcomes[store.name] = {name: [NOT_FILLED] * num_rows for name in store.streams}

    def put(self, clip: ReadClip) -> None:
        """Take in what was read of a clip for one store; targets follow."""
        outcomes, arrays = self.outcomes[clip.view], self.arrays[clip.view]
        outcomes["outcome"][clip.index] = clip.outcome
        if "imu_outcome" in outcomes:
            outcomes["imu_outcome"][clip.index] = clip.imu_outcome
        if clip.frame_times_s is not None:
            arrays["frames"][clip.index] = clip.jpegs
            arrays["frame_time"][clip.index] = clip.frame_times_s
        if clip.imu is not None:
            arrays["imu"][clip.index] = clip.imu.samples_W6
            arrays["imu_mean"][clip.index] = clip.imu.mean_6

    def put_targets(self, store: str, rows: Sequence[int], found: TeacherTargets) -> None:
        """Take in a store's targets of these rows, in this order."""
        arrays = self.arrays[store]
        for at, row in enumerate(rows):
            feature_D, logits_C = found.feature_ND[at], found.logits_NC[at]
            if np.isfinite(feature_D).all() and np.isfinite(logits_C).all():
                arrays["feature"][row] = feature_D
                if "logits" in arrays:
                    arrays["logits"][row] = logits_C
            else:
                self.outcomes[store]["outcome"][row] = NOT_FINITE

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


def _blank(spec: ArraySpec, num_rows: int) -> NDArray[Any]:
    shape = (num_rows, *spec.row_shape)
    if spec.dtype == BYTES:
        blank = np.empty(shape, dtype=object)
        blank.fill(b"")
        return blank
    # Targets are rounded to the store's dtype when they are written, and checked by that.
    return np.full(shape, np.nan, dtype=np.float64 if spec.dtype == "float64" else np.float32)

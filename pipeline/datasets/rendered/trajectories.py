"""The demo world without pictures, as arrays for the ceilings of the demo."""

from pathlib import Path

import numpy as np

from egoctl.pipeline.datasets.rendered.actions import KINDS
from egoctl.pipeline.datasets.rendered.world import WorldConfig, simulate_segments, split_of


def write_trajectories(config: WorldConfig, out: Path) -> None:
    """Write IMU, true scene, label and split of every segment to out (.npz).

    The scene (N, L): kind of thing (one-hot), its side, and the hand's place at the middle of the
    segment, in units of about 1.
    """
    found = simulate_segments(config)
    kind_NK = np.eye(len(KINDS), dtype=np.float32)[found.kind_N]
    hand_N3 = found.hand_N3 - found.hand_N3.mean(axis=0)
    hand_N3 = hand_N3 / hand_N3.std(axis=0)
    is_test_P = np.array(
        [split_of(config, person) == "test" for person in range(config.num_participants)]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        out,
        imu_NWA=found.imu_NWA,
        latents_NL=np.concatenate([kind_NK, found.side_N[:, None], hand_N3], axis=1).astype(
            np.float32
        ),
        label_N=found.label_N,
        is_test_N=is_test_P[found.participant_N],
    )

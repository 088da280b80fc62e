"""The segments of the demo world without pictures, as a file of arrays."""

from pathlib import Path

import numpy as np

from egoctl.pipeline.datasets.rendered.actions import KINDS
from egoctl.pipeline.datasets.rendered.world import WorldConfig, simulate_segments, split_of


def write_trajectories(config: WorldConfig, out: Path) -> None:
    """Write IMU, latents (the true scene), label and split of every segment to out (.npz).

    The latents (N, L): kind of thing (one-hot), its side, and where the hand is at the segment's
    middle (mean 0 and standard deviation 1 over all segments).
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

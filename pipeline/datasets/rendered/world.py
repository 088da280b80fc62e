"""The demo world's segments: who does what, how the head moves, what its IMU measures.

Everything follows from WorldConfig; nothing here draws a picture.
"""

# N segments, W IMU samples of a segment, A IMU axes (6)

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.datasets.rendered.actions import (
    CLASS_NAMES,
    KINDS,
    SEGMENT_S,
    Action,
    draw_action,
)
from egoctl.pipeline.datasets.rendered.motion import (
    POSE_HZ,
    CouplingConfig,
    HeadPath,
    Participant,
    draw_participant,
    head_path,
    ideal_imu,
    measured_imu,
)

SEGMENTS_PER_VIDEO = 10
IMU_SAMPLES = 475
"""Whole samples of every segment; every fifth segment has one more."""

# Independent streams of random numbers, so that changing one leaves the others alone.
PERSON, ORDER, ACTION, HEAD, NOISE, SURFACES, CLUTTER = range(7)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """A world is this record and WORLD_VERSION, nothing else."""

    seed: int = 0
    num_participants: int = 10
    segments_per_participant: int = 100
    size_px: int = 128
    own_motion: float = 1.0
    """Scale of what every head does by itself; 0 for heads that only answer to the hand."""
    coupling: CouplingConfig = field(default_factory=CouplingConfig)

    def __post_init__(self) -> None:
        if self.num_participants < 2:
            raise ValueError(f"need 2 participants or more, got {self.num_participants}")
        if self.segments_per_participant < 1 or self.segments_per_participant % 10:
            raise ValueError(
                "segments_per_participant must be a multiple of 10 (ten classes, ten segments "
                f"a video), got {self.segments_per_participant}"
            )
        if self.size_px < 16 or self.size_px % 2:
            raise ValueError(f"size_px must be even and 16 or more, got {self.size_px}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedSegments:
    """Segments without pictures: the IMU, and what a perfect eye would see at the centre."""

    imu_NWA: NDArray[np.float32]
    """m/s^2, then rad/s."""
    kind_N: NDArray[np.int64]
    """Index into KINDS."""
    side_N: NDArray[np.int64]
    """-1 or 1: hinge, lever or lid to the left or right; for other things without meaning."""
    hand_N3: NDArray[np.float64]
    """Hand at the centre, metres, from the thing's place."""
    label_N: NDArray[np.int64]
    participant_N: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One segment's action and head, sampled on its video's 198 Hz clock."""

    action: Action
    person: Participant
    path: HeadPath
    """On the segment's own clock, seconds from its start."""
    imu_WA: NDArray[np.float64]


def split_of(config: WorldConfig, participant: int) -> str:
    """'train', 'val' or 'test': the last three in ten are test, the one before them val."""
    num_test = max(1, 3 * config.num_participants // 10)
    if participant >= config.num_participants - num_test:
        return "test"
    is_last = participant == config.num_participants - num_test - 1
    return "val" if is_last and participant > 0 else "train"


def simulate_segments(
    config: WorldConfig, indices: Sequence[int] | None = None
) -> SimulatedSegments:
    """The segments that render_world would draw, by index over participants; all by default."""
    per_person = config.segments_per_participant
    if indices is None:
        indices = range(config.num_participants * per_person)
    labels = [labels_of(config, person) for person in range(config.num_participants)]
    pairs = [divmod(index, per_person) for index in indices]
    shots = [shot_of(config, person, segment) for person, segment in pairs]
    centre = np.array([SEGMENT_S / 2])
    return SimulatedSegments(
        imu_NWA=np.stack([shot.imu_WA[:IMU_SAMPLES] for shot in shots]).astype(np.float32),
        kind_N=np.array([KINDS.index(shot.action.kind) for shot in shots]),
        side_N=np.array([shot.action.side for shot in shots]),
        hand_N3=np.stack(
            [shot.action.hand_path(centre)[0] - shot.action.place_3 for shot in shots]
        ),
        label_N=np.array([labels[person][segment] for person, segment in pairs]),
        participant_N=np.array([person for person, _ in pairs]),
    )


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


def shot_of(config: WorldConfig, person: int, segment: int) -> Shot:
    """One segment of a participant; segment counts through all their videos."""
    participant = draw_participant(
        random_stream(config, PERSON, person), config.coupling, config.own_motion
    )
    verb = CLASS_NAMES[labels_of(config, person)[segment]]
    action = draw_action(
        random_stream(config, ACTION, person, segment), verb, participant.eye_height_m
    )
    # Samples n of the video's clock with n / 198 inside [2.4 k, 2.4 k + 2.4), in whole numbers.
    k = segment % SEGMENTS_PER_VIDEO
    first, stop = (-(-2376 * edge // 5) for edge in (k, k + 1))
    pose_count = np.arange(4 * first - 4, 4 * stop + 4)
    time_s = pose_count / POSE_HZ - k * SEGMENT_S
    path = head_path(
        random_stream(config, HEAD, person, segment), time_s, action, participant, config.coupling
    )
    # Row i of the ideal IMU belongs to pose i + 1; poses 4, 8, ... are the video's samples.
    clean_WA = ideal_imu(path)[3::4][: stop - first]
    return Shot(
        action=action,
        person=participant,
        path=path,
        imu_WA=measured_imu(random_stream(config, NOISE, person, segment), clean_WA, participant),
    )


def labels_of(config: WorldConfig, person: int) -> NDArray[np.int64]:
    """(segments,) class indices of a participant, the same number of each, shuffled."""
    labels = np.arange(config.segments_per_participant) % len(CLASS_NAMES)
    return random_stream(config, ORDER, person).permutation(labels)


def random_stream(config: WorldConfig, *stream: int) -> np.random.Generator:
    """Random numbers of one of the streams above, for one participant, segment or session."""
    return np.random.default_rng([config.seed, *stream])

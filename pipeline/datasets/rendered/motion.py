"""How the demo world's heads move, and what an IMU on them measures.

There is one mechanism and no template per class: a head moves by itself, glances about, and
follows the hand (gaze, trunk, and the arm's shaking) as strongly as CouplingConfig says. How
strongly real heads follow is not claimed here; these numbers are a choice, kept in world.json.

Camera and IMU axes: x right, y down, z forward. The world's z is up.
"""

# T pose times (792 Hz), W IMU samples (198 Hz)

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from egoctl.pipeline.datasets.rendered.actions import Action, Array, min_jerk

IMU_HZ = 198
POSE_HZ = 4 * IMU_HZ
GRAVITY_3 = np.array([0.0, 0.0, -9.81])

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class CouplingConfig:
    """How a head answers to its hand. Ranges are drawn from uniformly, per participant."""

    gaze_gain: Range = (0.20, 0.45)
    """Head turn per turn of the hand's direction."""
    trunk_lean: Range = (0.10, 0.24)
    """Head shift per forward shift of the hand ..."""
    lean_sideways: float = 0.6
    lean_up: float = 0.4
    """... and less of it sideways and up."""
    arm_shake: Range = (0.03, 0.07)
    """Head shift per fast part of the hand's path ..."""
    shake_rad_per_m: float = 3.0
    """... and head turn per such shift."""
    lag_s: Range = (0.05, 0.14)
    """Time constant of each of the two low-pass poles."""
    lognormal_sigma: float = 0.35
    """Spread of the coupling from segment to segment."""
    free_share: float = 0.12
    """Share of segments whose head hardly follows and glances elsewhere."""
    free_scale: float = 0.08
    glance_share: float = 0.15
    """Share of the other segments with a glance."""
    glance_deg: Range = (4.0, 12.0)

    @classmethod
    def zero(cls) -> "CouplingConfig":
        """The control world: heads that do not answer to the hand, but still move and glance."""
        return cls(gaze_gain=(0.0, 0.0), trunk_lean=(0.0, 0.0), arm_shake=(0.0, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """What belongs to a person and the IMU they wear, in every segment."""

    gaze_gain: float
    trunk_lean: float
    arm_shake: float
    lag_s: float
    sway: float
    """Scale of the head's own motion, about 1."""
    eye_height_m: float
    skin_3: Array
    """RGB, 0 to 255."""
    mounting_33: Array
    """Camera axes from IMU axes."""
    bias_6: Array
    """Accelerometer (m/s^2), then gyroscope (rad/s)."""
    noise_6: Array
    """Standard deviation of the white noise, in the same order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadPath:
    """A camera's pose over time: metres, and radians right (yaw), up (pitch), clockwise (roll)."""

    time_s: Array
    position_T3: Array
    yaw_pitch_roll_T3: Array

    def rotation(self) -> Array:
        """(T, 3, 3) world axes from camera axes."""
        yaw, pitch, roll = self.yaw_pitch_roll_T3.T
        zero = np.zeros_like(yaw)
        level_T3 = np.stack([np.cos(yaw), -np.sin(yaw), zero], axis=1)
        ahead_T3 = np.stack(
            [np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)], axis=1
        )
        below_T3 = np.cross(ahead_T3, level_T3)
        sin, cos = np.sin(roll)[:, None], np.cos(roll)[:, None]
        right_T3, down_T3 = cos * level_T3 + sin * below_T3, cos * below_T3 - sin * level_T3
        return np.stack([right_T3, down_T3, ahead_T3], axis=2)

    def at(self, time_s: Array) -> "HeadPath":
        """The same path at other times; linear between poses, which at 792 Hz is under 1 um."""
        columns = [np.interp(time_s, self.time_s, column) for column in self.position_T3.T]
        angles = [np.interp(time_s, self.time_s, column) for column in self.yaw_pitch_roll_T3.T]
        return HeadPath(
            time_s=time_s,
            position_T3=np.stack(columns, axis=1),
            yaw_pitch_roll_T3=np.stack(angles, axis=1),
        )


def draw_participant(
    rng: np.random.Generator, coupling: CouplingConfig, own_motion: float
) -> Participant:
    """A person; own_motion scales how much every head moves by itself."""
    gaze, lean, shake, lag = rng.random(4)
    tone = rng.random()
    return Participant(
        gaze_gain=_between(coupling.gaze_gain, gaze),
        trunk_lean=_between(coupling.trunk_lean, lean),
        arm_shake=_between(coupling.arm_shake, shake),
        lag_s=_between(coupling.lag_s, lag),
        sway=own_motion * rng.uniform(0.7, 1.3),
        eye_height_m=float(np.clip(rng.normal(0, 0.03), -0.06, 0.06)),
        skin_3=np.array([233.0, 188, 155]) * (1 - tone) + np.array([108.0, 72, 52]) * tone,
        mounting_33=_small_rotation(np.radians(rng.normal(0, 2, size=3))),
        bias_6=np.concatenate([rng.normal(0, 0.15, size=3), rng.normal(0, 0.02, size=3)]),
        noise_6=np.repeat([rng.uniform(0.04, 0.10), rng.uniform(0.006, 0.015)], 3),
    )


def head_path(
    rng: np.random.Generator,
    time_s: Array,
    action: Action,
    person: Participant,
    coupling: CouplingConfig,
) -> HeadPath:
    """The head's path during an action; in some segments it is free of the hand.

    time_s (T,) is a regular 792 Hz grid that starts while the hand still rests. The same
    numbers are drawn whatever the coupling, so two worlds of one seed differ only by it.
    """
    is_free = bool(rng.random() < coupling.free_share)
    strength = float(np.exp(coupling.lognormal_sigma * rng.normal()))
    strength *= coupling.free_scale if is_free else 1.0
    glances = bool(rng.random() < coupling.glance_share) or is_free
    aim_2 = np.radians(rng.normal(0, 2.5, size=2))
    glance_T2 = _glance(rng, time_s, coupling.glance_deg)
    own_T6 = person.sway * np.stack([_sway(rng, time_s) for _ in range(6)], axis=1)
    own_T6 *= [*np.radians([1.6, 1.2, 1.0]), 0.010, 0.012, 0.005]

    focus_3, hand_T3 = action.focus_3(), action.hand_path(time_s)
    followed_T3 = _low_pass(hand_T3, person.lag_s)
    shake_T3 = strength * person.arm_shake * (hand_T3 - followed_T3)
    aim_at_2 = _direction(focus_3 - action.eye_3)
    # The hand is followed from its middle on, so the gaze rests on the action half-way through.
    gaze_T2 = _low_pass(_direction(hand_T3 - action.eye_3) - aim_at_2, person.lag_s)

    angles_T3 = own_T6[:, :3].copy()
    angles_T3[:, :2] += aim_at_2 + aim_2 + strength * person.gaze_gain * gaze_T2
    angles_T3[:, :2] += coupling.shake_rad_per_m * shake_T3[:, [0, 2]]
    if glances:
        angles_T3[:, :2] += glance_T2
    lean_3 = np.array([coupling.lean_sideways, 1.0, coupling.lean_up]) * person.trunk_lean
    position_T3 = action.eye_3 + own_T6[:, 3:] + shake_T3
    position_T3 += strength * lean_3 * (followed_T3 - focus_3)
    return HeadPath(time_s=time_s, position_T3=position_T3, yaw_pitch_roll_T3=angles_T3)


def ideal_imu(path: HeadPath) -> Array:
    """(T - 2, 6) specific force (m/s^2) and angular rate (rad/s) in camera axes, without faults.

    Central differences of the poses: row i belongs to path.time_s[i + 1].
    """
    step_s = float(path.time_s[1] - path.time_s[0])
    rotation_T33 = path.rotation()
    position = path.position_T3
    force_T3 = (position[2:] - 2 * position[1:-1] + position[:-2]) / step_s**2 - GRAVITY_3
    to_camera = rotation_T33[1:-1].transpose(0, 2, 1)
    rate_T33 = to_camera @ (rotation_T33[2:] - rotation_T33[:-2]) / (2 * step_s)
    gyro_T3 = np.stack(
        [
            rate_T33[:, 2, 1] - rate_T33[:, 1, 2],
            rate_T33[:, 0, 2] - rate_T33[:, 2, 0],
            rate_T33[:, 1, 0] - rate_T33[:, 0, 1],
        ],
        axis=1,
    )
    accel_T3 = np.einsum("tij,tj->ti", to_camera, force_T3)
    return np.concatenate([accel_T3, gyro_T3 / 2], axis=1)


def measured_imu(rng: np.random.Generator, ideal_W6: Array, person: Participant) -> Array:
    """(W, 6) the same through the person's IMU: turned mounting, bias and white noise."""
    turned = np.concatenate(
        [ideal_W6[:, :3] @ person.mounting_33, ideal_W6[:, 3:] @ person.mounting_33], axis=1
    )
    return turned + person.bias_6 + person.noise_6 * rng.normal(size=ideal_W6.shape)


def _between(bounds: Range, share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _direction(offset_T3: Array) -> Array:
    """(..., 2) yaw and pitch of a direction, radians."""
    x, y, z = np.moveaxis(offset_T3, -1, 0)
    return np.stack([np.arctan2(x, y), np.arctan2(z, np.hypot(x, y))], axis=-1)


def _low_pass(signal_TC: Array, lag_s: float) -> Array:
    """Two first-order poles, started as if the first value had always been there."""
    keep = float(np.exp(-1 / (POSE_HZ * lag_s)))
    smooth = signal_TC - signal_TC[0]
    for _ in range(2):
        smooth = lfilter([1 - keep], [1, -keep], smooth, axis=0)
    return np.asarray(smooth + signal_TC[0], dtype=np.float64)


def _sway(rng: np.random.Generator, time_s: Array) -> Array:
    """(T,) seven sinusoids of 0.15 to 1.6 Hz, slow ones larger, of standard deviation 1."""
    hz = 0.15 * (1.6 / 0.15) ** rng.random(7)
    size = hz**-0.5
    size *= np.sqrt(2 / np.sum(size**2))
    waves = np.sin(2 * np.pi * (hz * time_s[:, None] + rng.random(7)))
    return np.asarray(waves @ size, dtype=np.float64)


def _glance(rng: np.random.Generator, time_s: Array, size_deg: Range) -> Array:
    """(T, 2) yaw and pitch of one look elsewhere and back, radians."""
    start_s, out_s, stay_s, back_s = rng.uniform([0.2, 0.2, 0.0, 0.2], [1.4, 0.4, 0.3, 0.4])
    turn = rng.uniform(-np.pi, np.pi)
    size = np.radians(rng.uniform(*size_deg))
    away = min_jerk((time_s - start_s) / out_s)
    back = min_jerk((time_s - start_s - out_s - stay_s) / back_s)
    return np.asarray(np.outer(away - back, [size * np.cos(turn), 0.5 * size * np.sin(turn)]))


def _small_rotation(angles_3: Array) -> Array:
    """(3, 3) rotation by one small angle (radians) about each axis in turn."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles_3):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation

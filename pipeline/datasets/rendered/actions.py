"""What the demo world's people do: ten verbs, the things they touch and the path of the hand.

The only place that knows a verb's meaning. A verb and its reverse (open and close, take and put,
turn on and turn off) are one path walked in two directions, so their middles look the same and
only motion distinguishes them, as it does cut and spread, which use the same things.

World axes: x right, y forward, z up, metres. The counter's edge is at y = COUNTER_FRONT.
"""

# T times

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CLASS_NAMES = (
    "open",
    "close",
    "take",
    "put",
    "turn-on",
    "turn-off",
    "cut",
    "spread",
    "stir",
    "wash",
)
KINDS = ("cabinet", "drawer", "lid", "mug", "jar", "tap", "board", "pan", "plate")
"""What is handled: 'lid' is a jar being opened, 'jar' one being carried."""

SEGMENT_S = 2.4
COUNTER_Z = 0.92
COUNTER_FRONT = 0.30
WALL_Y = 0.95
DOOR_W, DOOR_H, DOOR_Y = 0.34, 0.46, 0.60
DOOR_ANGLE = math.radians(75)
DRAWER_W, DRAWER_H, DRAWER_SLIDE = 0.42, 0.17, 0.26
JAR_H, JAR_R = 0.17, 0.062
TAP_H, TAP_LEVER = 0.20, 0.07

_KINDS_OF = {
    "open": ("cabinet", "drawer", "lid"),
    "close": ("cabinet", "drawer", "lid"),
    "take": ("mug", "jar"),
    "put": ("mug", "jar"),
    "turn-on": ("tap",),
    "turn-off": ("tap",),
    "cut": ("board",),
    "spread": ("board",),
    "stir": ("pan",),
    "wash": ("plate",),
}
_REVERSED = ("close", "put", "turn-off")
_REPEATED = ("cut", "spread", "stir", "wash")

# Where the thing is and where the eyes are, as (y, z) each.
_PLACE = {"cabinet": (DOOR_Y, 1.53), "drawer": (COUNTER_FRONT, 0.79), "tap": (0.70, COUNTER_Z)}
_ON_COUNTER = (0.50, COUNTER_Z)
_EYES = {"cabinet": (-0.02, 1.50), "drawer": (-0.28, 1.40), "tap": (0.20, 1.45)}
_EYES_OVER_COUNTER = (0.06, 1.46)


def min_jerk(phase: Array) -> Array:
    """0 before phase 0, 1 after phase 1, the smoothest step between (Flash and Hogan 1985)."""
    x = np.clip(phase, 0.0, 1.0)
    return np.asarray(x**3 * (10 - 15 * x + 6 * x**2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One segment's action: everything about it that is not the head's."""

    verb: str
    kind: str
    side: int
    """-1 or 1: hinge, tap lever or lid to the left or right; mirrors the path."""
    hand_side: int
    """-1 left hand, 1 right hand."""
    place_3: Array
    """Where the thing is at rest; the door's or drawer front's middle."""
    eye_3: Array
    """Where the eyes would be without any head motion."""
    mid_s: float
    duration_s: float
    approach_s: float
    retreat_s: float | None
    """None: the hand stays where the action ended."""
    reach: float
    """Path size, about 1."""
    beat_hz: float
    """Number of strokes that are repeated."""
    beat_phase: float
    stroke_3: Array
    """Amplitudes of the repeated stroke in metres; y is a quarter turn from x and z."""
    stroke_at_3: Array
    """Where strokes are made, from the usual spot: as far off as a stroke is long, or one frame
    would recognise the kind of stroke by the place of the hand."""

    def progress(self, time_s: Array) -> Array:
        """(T,) how far the thing is along its path: 0 closed, on its place or off, to 1."""
        start = self.mid_s - self.duration_s / 2
        step: Array = min_jerk((time_s - start) / self.duration_s)
        return 1 - step if self.verb in _REVERSED else step

    def hand_path(self, time_s: Array) -> Array:
        """(T, 3) where the hand grips, metres."""
        start, stop = self.mid_s - self.duration_s / 2, self.mid_s + self.duration_s / 2
        rest_3 = self.rest_3()
        come_T1 = min_jerk((time_s - start + self.approach_s) / self.approach_s)[:, None]
        first_3, last_3 = self.grip_path(np.array([start, stop]))
        path_T3: Array = self.grip_path(time_s) + (come_T1 - 1) * (first_3 - rest_3)
        if self.retreat_s is not None:
            leave_T1 = min_jerk((time_s - stop - 0.06) / self.retreat_s)[:, None]
            path_T3 = path_T3 + leave_T1 * (rest_3 - last_3)
        return path_T3

    def rest_3(self) -> Array:
        """(3,) where the hand is before and after, low in the view or below it."""
        hanging_3 = self.eye_3 + np.array([0.17 * self.hand_side, 0.26, -0.56])
        # A third of the way up already, or following it turns the gaze off the scene.
        rest_3: Array = hanging_3 + 0.35 * (self.focus_3() - hanging_3)
        return rest_3

    def focus_3(self) -> Array:
        """(3,) the middle of the action, the same for a verb and its reverse."""
        middle = 0.0 if self.verb in _REPEATED else 0.5
        focus_3: Array = self._grip_at(np.array([middle]))[0]
        return focus_3

    def grip_offset_3(self) -> Array:
        """(3,) from the foot of a thing at rest to where the hand grips it."""
        offset_3: Array = self._grip_at(np.zeros(1))[0] - self.place_3
        return offset_3

    def is_carried(self, time_s: Array) -> NDArray[np.bool_]:
        """(T,) whether the thing taken or put goes with the hand; else it stays in its place."""
        if self.verb == "take":
            return np.asarray(time_s >= self.mid_s - self.duration_s / 2)
        return np.asarray(time_s <= self.mid_s + self.duration_s / 2)

    def grip_path(self, time_s: Array) -> Array:
        """(T, 3) the point to grip on the thing, or on the way of a stroke, hand or no hand."""
        if self.verb not in _REPEATED:
            return self._grip_at(self.progress(time_s))
        start, stop = self.mid_s - self.duration_s / 2, self.mid_s + self.duration_s / 2
        swell_T = min_jerk((time_s - start) / 0.25) * min_jerk((stop - time_s) / 0.25)
        turn_T = 2 * np.pi * self.beat_hz * (time_s - self.mid_s) + self.beat_phase
        wave_T3 = np.stack([np.sin(turn_T), np.cos(turn_T), np.sin(turn_T)], axis=1)
        stroke_T3: Array = swell_T[:, None] * wave_T3 * self.stroke_3
        return self.focus_3() + stroke_T3

    def _grip_at(self, progress_T: Array) -> Array:
        """(T, 3) the grip for a thing that is so far along its path."""
        s, zero = progress_T, np.zeros_like(progress_T)
        if self.kind == "cabinet":
            angle, radius = s * DOOR_ANGLE * self.reach, DOOR_W * 0.88
            hinge_x = self.side * DOOR_W / 2
            offset = (
                hinge_x - self.side * radius * np.cos(angle),
                -radius * np.sin(angle) - 0.03,
                zero - 0.04,
            )
        elif self.kind == "drawer":
            offset = (zero, -s * DRAWER_SLIDE * self.reach - 0.04, zero + 0.02)
        elif self.kind == "lid":
            offset = (
                s * 0.22 * self.side * self.reach,
                -s * 0.03,
                JAR_H + 0.03 - s * (JAR_H - 0.01) + 0.36 * s * (1 - s),
            )
        elif self.kind == "mug":
            offset = (
                s * 0.06 * self.side + 0.04 * self.hand_side,
                -s * 0.13 * self.reach - 0.05,
                s * 0.20 * self.reach + 0.07,
            )
        elif self.kind == "jar":
            offset = (
                s * 0.18 * self.side + 0.05 * self.hand_side,
                -s * 0.16 * self.reach - 0.05,
                s * 0.14 * self.reach + 0.10,
            )
        elif self.kind == "tap":
            # A lever of 7 cm turned by 45 degrees: the hand moves about 5 cm.
            angle = (s - 0.5) * math.radians(45) * self.side
            offset = (
                TAP_LEVER * np.sin(angle),
                -TAP_LEVER * np.cos(angle),
                zero + TAP_H + 0.03,
            )
        else:
            height = {"board": 0.11, "pan": 0.15, "plate": 0.07}[self.kind]
            x, y, z = self.stroke_at_3
            offset = (zero + 0.05 * self.hand_side + x, zero - 0.02 + y, zero + height + z)
        grip_T3: Array = self.place_3 + np.stack(offset, axis=1)
        return grip_T3


def draw_action(rng: np.random.Generator, verb: str, eye_height_m: float) -> Action:
    """One action of this verb; every number drawn in a fixed order, whatever the verb.

    eye_height_m is the participant's, above or below the average person's.
    """
    kind = str(rng.choice(_KINDS_OF[verb]))
    side, hand_side = (int(rng.choice((-1, 1))) for _ in range(2))
    x, dx, dy, dz = rng.uniform(-1, 1, size=4)
    y, z = _PLACE.get(kind, _ON_COUNTER)
    eye_y, eye_z = _EYES.get(kind, _EYES_OVER_COUNTER)
    place_3 = np.array([0.12 * x, y, z])
    if kind in ("lid", "mug", "jar", "board", "pan"):
        place_3[1] += 0.04 * dy
    eye_3 = np.array([0.12 * x + 0.08 * dx, eye_y + 0.03 * dy, eye_z + eye_height_m + 0.03 * dz])
    pulse_s, stroke_s, approach_s, retreat_s = (
        rng.uniform(low, high)
        for low, high in ((0.65, 1.15), (0.95, 1.15), (0.25, 0.45), (0.3, 0.5))
    )
    stays = rng.random() < 0.4
    # Never so early that the hand would be on its way before the segment starts.
    mid_s = 1.2 + float(np.clip(rng.normal(0, 0.10), -0.17, 0.17))
    beat, phase, size, reach = rng.random(4)
    stroke_at_3 = rng.uniform([-0.07, -0.05, -0.02], [0.07, 0.05, 0.06])
    beat_hz, stroke = _stroke(verb, beat, 0.85 + 0.3 * size)
    return Action(
        verb=verb,
        kind=kind,
        side=side,
        hand_side=hand_side,
        place_3=place_3,
        eye_3=eye_3,
        mid_s=mid_s,
        duration_s=stroke_s if verb in _REPEATED else pulse_s,
        approach_s=approach_s,
        retreat_s=None if stays else retreat_s,
        reach=0.8 + 0.3 * reach,
        beat_hz=beat_hz,
        beat_phase=2 * np.pi * phase,
        stroke_3=np.array(stroke),
        stroke_at_3=stroke_at_3,
    )


def _stroke(verb: str, beat: float, size: float) -> tuple[float, tuple[float, float, float]]:
    """Frequency (Hz) and amplitudes (m) of a repeated verb; nothing for the others."""
    if verb == "cut":
        return 1.9 + 0.9 * beat, (0.0, 0.035 * size, 0.030 * size)
    if verb == "spread":
        return 1.1 + 0.7 * beat, (0.055 * size, 0.012 * size, 0.0)
    if verb == "stir":
        return 1.2 + 1.2 * beat, (0.045 * size, 0.045 * size, 0.0)
    if verb == "wash":
        return 1.2 + 1.2 * beat, (0.045 * size, 0.025 * size, 0.010 * size)
    return 0.0, (0.0, 0.0, 0.0)

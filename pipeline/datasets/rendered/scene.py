"""The demo world's kitchens: where every quad is while an action goes on."""

# T frames

from dataclasses import dataclass

import numpy as np

from egoctl.pipeline.datasets.rendered.actions import (
    COUNTER_FRONT,
    COUNTER_Z,
    DOOR_ANGLE,
    DOOR_H,
    DOOR_W,
    DOOR_Y,
    DRAWER_H,
    DRAWER_SLIDE,
    DRAWER_W,
    JAR_H,
    JAR_R,
    TAP_H,
    WALL_Y,
    Action,
    Array,
)
from egoctl.pipeline.datasets.rendered.raster import Quad
from egoctl.pipeline.datasets.rendered.shapes import (
    box,
    disc,
    hand,
    hand_joints,
    hollow,
    panel,
    prism,
    strip,
)
from egoctl.pipeline.datasets.rendered.textures import Surfaces

HALF_ROOM = 1.6
"""The kitchen reaches this far left and right."""
CABINET_Z = (1.30, 1.76)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clutter:
    """An idle thing on the counter."""

    kind: str
    x: float
    y: float


def draw_clutter(rng: np.random.Generator, action: Action) -> tuple[Clutter, ...]:
    """Two idle things, one on each side, away from the action."""
    kinds = ("mug", "jar", "plate", "packet")
    x = action.place_3[0]
    return tuple(
        Clutter(
            kind=kinds[int(rng.integers(len(kinds)))],
            x=x + side * rng.uniform(0.34, 0.44),
            y=rng.uniform(0.52, 0.80),
        )
        for side in (-1, 1)
    )


def scene_quads(
    action: Action,
    clutter: tuple[Clutter, ...],
    surfaces: Surfaces,
    skin_3: Array,
    time_s: Array,
    eye_T3: Array,
) -> list[Quad]:
    """Everything there is at these times; strips and the hand turn their flat side to eye_T3."""
    hand_T3 = action.hand_path(time_s)
    elbow_T3 = elbow_path(action, hand_T3)
    joints_TJ3 = hand_joints(hand_T3, elbow_T3, action.hand_side)
    return [
        *_room(action, surfaces),
        *(quad for thing in clutter for quad in _idle(thing, surfaces)),
        *_thing(action, surfaces, time_s, hand_T3, eye_T3),
        *hand(joints_TJ3, elbow_T3, eye_T3, skin_3, surfaces.sleeve),
    ]


def elbow_path(action: Action, hand_T3: Array) -> Array:
    """(T, 3): under the middle between a still shoulder and the hand."""
    shoulder_3 = action.eye_3 + np.array([0.22 * action.hand_side, -0.05, -0.28])
    middle_T3: Array = 0.5 * (shoulder_3 + hand_T3)
    return middle_T3 + [0.06 * action.hand_side, -0.02, -0.10]


def _room(action: Action, surfaces: Surfaces) -> list[Quad]:
    wide, left = np.array([2 * HALF_ROOM, 0, 0]), -HALF_ROOM
    low, high = CABINET_Z
    quads = [
        panel(np.array([left, WALL_Y, 0]), wide, np.array([0, 0, 2.6]), surfaces.wall),
        panel(np.array([left, -1.0, 0]), wide, np.array([0, 1.95, 0]), surfaces.floor),
        panel(
            np.array([left, COUNTER_FRONT, COUNTER_Z]),
            wide,
            np.array([0, WALL_Y - COUNTER_FRONT, 0]),
            surfaces.counter,
        ),
    ]
    gap_x = action.place_3[0] if action.kind == "cabinet" else None
    quads += _fronts(surfaces, DOOR_Y, low, high, DOOR_W, gap_x)
    gap_x = action.place_3[0] if action.kind == "drawer" else None
    quads += _fronts(surfaces, COUNTER_FRONT, 0.70, 0.88, DRAWER_W, gap_x)
    quads += _fronts(surfaces, COUNTER_FRONT, 0.10, 0.69, DRAWER_W, None)
    # Undersides and edges, so nothing looks like paper.
    quads.append(
        panel(
            np.array([left, WALL_Y, low]),
            wide,
            np.array([0, DOOR_Y - WALL_Y, 0]),
            surfaces.inside,
        )
    )
    return quads


def _fronts(
    surfaces: Surfaces, y: float, low: float, high: float, width: float, gap_x: float | None
) -> list[Quad]:
    """A row of closed fronts, without the one at gap_x."""
    up = np.array([0, 0, high - low])
    first_x = (gap_x or 0.0) - width / 2
    num_left = int((first_x + HALF_ROOM) // width) + 1
    quads = []
    for index in range(-num_left, num_left + 2):
        if gap_x is not None and index == 0:
            continue
        corner = np.array([first_x + index * width, y, low])
        quads.append(panel(corner, np.array([width, 0, 0]), up, surfaces.front))
    return quads


def _idle(thing: Clutter, surfaces: Surfaces) -> list[Quad]:
    base = np.array([[thing.x, thing.y, COUNTER_Z]])
    if thing.kind == "mug":
        return _mug(base, surfaces)
    if thing.kind == "jar":
        return _jar(base, base + [0, 0, JAR_H], surfaces)
    if thing.kind == "plate":
        return [disc(base + [0, 0, 0.01], 0.10, surfaces.plate)]
    return box(base - [0.05, 0.03, 0], (0.10, 0.06, 0.16), surfaces.food)


def _mug(base_T3: Array, surfaces: Surfaces) -> list[Quad]:
    return prism(base_T3, 0.050, 0.11, surfaces.mug, surfaces.mug_inside)


def _jar(base_T3: Array, lid_T3: Array, surfaces: Surfaces) -> list[Quad]:
    return [
        *prism(base_T3, JAR_R, JAR_H, surfaces.jar, surfaces.mug_inside),
        *prism(lid_T3, JAR_R * 1.08, 0.035, surfaces.lid, surfaces.lid),
    ]


def _thing(
    action: Action, surfaces: Surfaces, time_s: Array, hand_T3: Array, eye_T3: Array
) -> list[Quad]:
    """What the action is done with."""
    place = action.place_3[None]
    if action.kind == "cabinet":
        return _cabinet(action, surfaces, time_s)
    if action.kind == "drawer":
        return _drawer(action, surfaces, time_s)
    if action.kind == "lid":
        lid_T3 = action.grip_path(time_s) - [0, 0, 0.03]
        return _jar(place, lid_T3, surfaces)
    if action.kind in ("mug", "jar"):
        to_grip_3 = action.grip_offset_3()
        base_T3 = np.where(action.is_carried(time_s)[:, None], hand_T3 - to_grip_3, place)
        if action.kind == "mug":
            return _mug(base_T3, surfaces)
        return _jar(base_T3, base_T3 + [0, 0, JAR_H], surfaces)
    if action.kind == "tap":
        flow_T = action.progress(time_s)
        lever_T3 = action.grip_path(time_s) - [0, 0, 0.03]
        sink = place - [0, 0.20, 0]
        return [*_sink(sink, surfaces), *_tap(place, lever_T3, flow_T, surfaces, eye_T3)]
    if action.kind == "plate":
        tap = place + [0, 0.20, 0]
        lever_T3 = np.broadcast_to(tap + [0, -0.07, TAP_H], hand_T3.shape)
        return [
            *_sink(place, surfaces),
            *_tap(tap, lever_T3, np.ones(len(time_s)), surfaces, eye_T3),
            disc(place + [0, 0, 0.012], 0.135, surfaces.plate),
            disc(place + [0, 0, 0.014], 0.085, surfaces.metal),
            *box(hand_T3 - [0.05, 0.02, 0.045], (0.10, 0.07, 0.035), surfaces.sponge),
        ]
    if action.kind == "pan":
        tip_T3 = hand_T3 + [-0.09 * action.hand_side, 0.07, -0.10]
        return [
            *prism(place, 0.15, 0.06, surfaces.pan, surfaces.pan, num_sides=12),
            disc(place + [0, 0, 0.062], 0.132, surfaces.stew),
            strip(tip_T3, hand_T3 + [0, 0, 0.05], 0.022, eye_T3, surfaces.wood),
            disc(tip_T3 + [0, 0, 0.005], 0.03, surfaces.wood),
        ]
    blade_T3 = hand_T3 + [-0.02 * action.hand_side, 0.01, -0.02]
    tip_T3 = hand_T3 + [-0.17 * action.hand_side, 0.08, -0.04]
    return [
        *box(place - [0.17, 0.12, 0], (0.34, 0.24, 0.02), surfaces.board),
        *box(place + [-0.09, -0.05, 0.02], (0.18, 0.10, 0.035), surfaces.food),
        strip(blade_T3, tip_T3, 0.034, eye_T3, surfaces.metal),
    ]


def _cabinet(action: Action, surfaces: Surfaces, time_s: Array) -> list[Quad]:
    x, y, z = action.place_3
    low, high = CABINET_Z
    angle_T = action.progress(time_s) * DOOR_ANGLE * action.reach
    hinge_3 = np.array([[x + action.side * DOOR_W / 2, y, low]])
    out_T3 = np.stack(
        [-action.side * np.cos(angle_T), -np.sin(angle_T), np.zeros_like(angle_T)], axis=1
    )
    up_3 = np.array([[0, 0, high - low]])
    handle_T3 = hinge_3 + 0.88 * DOOR_W * out_T3 + [0, -0.012, z - 0.04 - low - 0.05]
    corner_3 = np.array([x - DOOR_W / 2, y + 0.01, low])
    return [
        *hollow(corner_3, (DOOR_W, WALL_Y - y - 0.02, high - low), surfaces.inside),
        panel(
            corner_3 + [0, 0, DOOR_H * 0.5],
            np.array([DOOR_W, 0, 0]),
            np.array([0, 0.25, 0]),
            surfaces.wood,
        ),
        *_mug(corner_3 + [0.10, 0.12, 0.0], surfaces),
        *_jar(corner_3 + [0.23, 0.14, 0.0], corner_3 + [0.23, 0.14, JAR_H], surfaces),
        panel(hinge_3, out_T3 * DOOR_W, up_3, surfaces.front, two_sided=True),
        *box(handle_T3 - [0.01, 0.012, 0], (0.02, 0.024, 0.10), surfaces.metal),
    ]


def _drawer(action: Action, surfaces: Surfaces, time_s: Array) -> list[Quad]:
    x, y, z = action.place_3
    out_T = action.progress(time_s) * DRAWER_SLIDE * action.reach
    corner_T3 = np.array([[x - DRAWER_W / 2, y, z - DRAWER_H / 2]]) - out_T[:, None] * [[0, 1, 0]]
    handle_T3 = corner_T3 + [DRAWER_W / 2 - 0.06, -0.025, DRAWER_H / 2 + 0.01]
    depth = DRAWER_SLIDE + 0.06
    return [
        *hollow(corner_T3 + [0, 0.012, 0], (DRAWER_W, depth, DRAWER_H * 0.9), surfaces.inside),
        *box(corner_T3 + [0.06, 0.06, 0.01], (0.12, 0.14, 0.03), surfaces.wood),
        *box(corner_T3 + [0.24, 0.08, 0.01], (0.10, 0.12, 0.05), surfaces.lid),
        *box(corner_T3, (DRAWER_W, 0.012, DRAWER_H), surfaces.front, faces="flrtk"),
        *box(handle_T3, (0.12, 0.025, 0.02), surfaces.metal),
    ]


def _sink(center_3: Array, surfaces: Surfaces) -> list[Quad]:
    corner = center_3 - [0.21, 0.16, -0.004]
    return [panel(corner, np.array([0.42, 0, 0]), np.array([0, 0.32, 0]), surfaces.sink)]


def _tap(
    base_3: Array, lever_T3: Array, flow_T: Array, surfaces: Surfaces, eye_T3: Array
) -> list[Quad]:
    """A tap with its lever's end at lever_T3 and water as wide as flow_T (0 to 1)."""
    spout_3 = base_3 + [0, -0.17, TAP_H - 0.035]
    size = (flow_T > 0.02) * (0.35 + 0.65 * flow_T)
    shape = eye_T3.shape
    water_3 = base_3 + [0, -0.16, 0.006]
    splash_T3 = size[:, None]
    return [
        *prism(base_3, 0.026, TAP_H, surfaces.metal, surfaces.metal),
        *box(spout_3 - [0.018, 0, 0.0], (0.036, 0.17, 0.03), surfaces.metal),
        strip(
            np.broadcast_to(base_3 + [0, 0, TAP_H + 0.01], shape),
            lever_T3,
            0.024,
            eye_T3,
            surfaces.lid,
        ),
        strip(
            np.broadcast_to(water_3, shape),
            np.broadcast_to(spout_3 + [0, 0.01, 0], shape),
            0.032 * size,
            eye_T3,
            surfaces.water,
        ),
        Quad(
            origin_T3=water_3 - splash_T3 * [0.08, 0.06, 0],
            edge_u_T3=splash_T3 * [0.16, 0, 0],
            edge_v_T3=splash_T3 * [0, 0.12, 0],
            texture_SS3=surfaces.water,
            is_ellipse=True,
        ),
    ]

"""Boxes, prisms, discs, strips and hands, made of quads. Metres, world axes (z up)."""

# T frames (or 1 for things at rest), J hand joints

import numpy as np

from egoctl.pipeline.datasets.rendered.actions import Array
from egoctl.pipeline.datasets.rendered.raster import Quad
from egoctl.pipeline.datasets.rendered.textures import Texture, plain, shaded

LIGHT_3 = np.array([-0.35, -0.55, 0.76])
"""Towards the light: above, a little left, on the viewer's side."""
HAND_JOINTS = ("wrist", "palm", "thumb", "index", "middle", "ring", "little")
"""The columns of hand_joints: two of the hand's root, then five fingertips."""


def panel(
    origin_T3: Array,
    edge_u_T3: Array,
    edge_v_T3: Array,
    texture: Texture,
    *,
    two_sided: bool = False,
) -> Quad:
    """A quad lit by its direction in the first frame."""
    origin, edge_u, edge_v = (np.atleast_2d(v) for v in (origin_T3, edge_u_T3, edge_v_T3))
    normal = np.cross(edge_u[0], edge_v[0])
    facing = float(normal @ LIGHT_3 / (np.linalg.norm(normal) + 1e-12))
    return Quad(
        origin_T3=origin,
        edge_u_T3=edge_u,
        edge_v_T3=edge_v,
        texture_SS3=shaded(texture, 0.74 + 0.26 * (abs(facing) if two_sided else facing)),
        is_two_sided=two_sided,
    )


def box(
    low_T3: Array, size_3: tuple[float, float, float], texture: Texture, *, faces: str = "flrt"
) -> list[Quad]:
    """Faces of a box above its low corner: front, left, right, top, bottom; k is the back."""
    low = np.atleast_2d(low_T3)
    x, y, z = np.diag(size_3)
    sides = {
        "f": (low, x, z),
        "l": (low + y, -y, z),
        "r": (low + x, y, z),
        "t": (low + z, x, y),
        "k": (low + x + y, -x, z),
        "b": (low + y, x, -y),
    }
    return [panel(*sides[face], texture) for face in faces]


def hollow(low_T3: Array, size_3: tuple[float, float, float], texture: Texture) -> list[Quad]:
    """The inner faces of a box, open to the viewer and (from above) to the top."""
    low = np.atleast_2d(low_T3)
    x, y, z = np.diag(size_3)
    return [
        panel(low + y, x, z, texture),
        panel(low, y, z, texture),
        panel(low + x + y, -y, z, texture),
        panel(low, x, y, texture),
    ]


def disc(center_T3: Array, radius: float, texture: Texture) -> Quad:
    """A level disc, seen from above."""
    center = np.atleast_2d(center_T3)
    flat = panel(
        center - [radius, radius, 0],
        np.array([2 * radius, 0, 0]),
        np.array([0, 2 * radius, 0]),
        texture,
    )
    return Quad(
        origin_T3=flat.origin_T3,
        edge_u_T3=flat.edge_u_T3,
        edge_v_T3=flat.edge_v_T3,
        texture_SS3=flat.texture_SS3,
        is_ellipse=True,
    )


def prism(
    base_T3: Array, radius: float, height: float, side: Texture, top: Texture, *, num_sides: int = 8
) -> list[Quad]:
    """An upright cylinder of flat sides, with a round top."""
    base = np.atleast_2d(base_T3)
    turn = 2 * np.pi * (np.arange(num_sides + 1) + 0.5) / num_sides
    rim = radius * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    up = np.array([0, 0, height])
    sides = [panel(base + a, b - a, up, side) for a, b in zip(rim[:-1], rim[1:], strict=True)]
    return [*sides, disc(base + up, radius, top)]


def strip(
    start_T3: Array, end_T3: Array, width: Array | float, eye_T3: Array, texture: Texture
) -> Quad:
    """A flat strip from start to end that turns its face to the eye."""
    along = end_T3 - start_T3
    across = _unit(np.cross(along, eye_T3 - start_T3)) * np.reshape(width, (-1, 1))
    return Quad(
        origin_T3=start_T3 - across / 2,
        edge_u_T3=across,
        edge_v_T3=along,
        texture_SS3=texture,
        is_two_sided=True,
    )


def hand_joints(grip_T3: Array, elbow_T3: Array, hand_side: int) -> Array:
    """(T, J, 3) of a hand that grips at grip_T3, the forearm coming from elbow_T3."""
    ahead = _unit(grip_T3 - elbow_T3)
    right = _unit(np.cross(ahead, [0.0, 0.0, 1.0]))
    outward, up = right * hand_side, np.array([0.0, 0.0, 1.0])
    knuckles = grip_T3 - 0.02 * ahead + 0.02 * up
    tips = [
        knuckles + (0.058 - 0.006 * abs(i - 1)) * ahead + (i - 1.5) * 0.023 * outward - 0.025 * up
        for i in range(4)
    ]
    thumb = knuckles + 0.015 * ahead - 0.058 * outward - 0.015 * up
    return np.stack(
        [grip_T3 - 0.11 * ahead + 0.02 * up, knuckles - 0.03 * ahead, thumb, *tips], axis=1
    )


def hand(
    joints_TJ3: Array, elbow_T3: Array, eye_T3: Array, skin_3: Array, sleeve: Texture
) -> list[Quad]:
    """Forearm, palm and fingers as strips and an ellipse that face the eye."""
    wrist, palm, thumb, *tips = joints_TJ3.transpose(1, 0, 2)
    skin, finger = plain(skin_3), plain(skin_3 * 0.86)
    cuff = wrist + 0.25 * (elbow_T3 - wrist)
    back = strip(wrist, palm + 0.55 * (palm - wrist), 0.085, eye_T3, skin)
    round_palm = Quad(
        origin_T3=back.origin_T3,
        edge_u_T3=back.edge_u_T3,
        edge_v_T3=back.edge_v_T3,
        texture_SS3=skin,
        is_ellipse=True,
        is_two_sided=True,
    )
    fingers = [strip(palm + 0.4 * (tip - palm), tip, 0.019, eye_T3, finger) for tip in tips]
    return [
        strip(elbow_T3, cuff, 0.085, eye_T3, sleeve),
        strip(cuff, wrist + 0.3 * (palm - wrist), 0.058, eye_T3, skin),
        round_palm,
        strip(palm - 0.3 * (thumb - palm), thumb, 0.024, eye_T3, finger),
        *fingers,
    ]


def _unit(vector_T3: Array) -> Array:
    length = np.linalg.norm(vector_T3, axis=-1, keepdims=True)
    return np.asarray(vector_T3 / np.maximum(length, 1e-9), dtype=np.float64)

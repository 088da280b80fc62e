"""Draw flat quads as a camera sees them: colours and exact depth. Knows no kitchen.

For a quad origin + u * edge_u + v * edge_v in camera axes, solving
[edge_u edge_v origin] (u, v, 1) / depth = ray gives u/depth, v/depth and 1/depth as linear
functions of the pixel. So being inside and being nearest are tests on three linear functions,
and one division per visible pixel finds the texel.
"""

# T frames, H height, W width (both size_px), Q quads, S texture side

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.datasets.rendered.actions import Array

FRAMES_AT_ONCE = 12
"""So the working arrays of a 128 px image stay near the processor."""
NEAR_M = 0.05
FOCAL_PER_SIZE = 0.90
"""58 degrees across."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A pinhole camera's poses, square image; camera axes are x right, y down, z forward."""

    position_T3: Array
    rotation_T33: Array
    """World axes from camera axes."""
    size_px: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quad:
    """A textured parallelogram, or the ellipse inside it, at rest or moving.

    The first axis of the vectors is T, or 1 for a quad at rest. The front is the side from
    which edge_u x edge_v points at the viewer.
    """

    origin_T3: Array
    edge_u_T3: Array
    edge_v_T3: Array
    texture_SS3: NDArray[np.uint8]
    """Row index along v, column index along u."""
    is_ellipse: bool = False
    is_two_sided: bool = False


def render(quads: Sequence[Quad], camera: Camera) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Colours (T, H, W, 3), and depth along the optical axis (T, H, W): metres, inf for nothing."""
    num_frames, size = len(camera.position_T3), camera.size_px
    plane_QT33 = np.stack([_planes(quad, camera) for quad in quads])
    boxes_QT4 = np.stack([_boxes(quad, camera) for quad in quads])
    atlas, first_Q = _atlas(quads)
    rgb = np.empty((num_frames, size, size, 3), np.uint8)
    depth = np.empty((num_frames, size, size), np.float32)
    for start in range(0, num_frames, FRAMES_AT_ONCE):
        span = slice(start, start + FRAMES_AT_ONCE)
        texel, inverse_depth = _draw(
            quads, plane_QT33[:, span], boxes_QT4[:, span], first_Q, camera.size_px
        )
        rgb[span] = np.take(atlas, texel, axis=0)
        with np.errstate(divide="ignore"):
            depth[span] = 1 / inverse_depth
    return rgb, depth


def _draw(
    quads: Sequence[Quad],
    plane_QT33: NDArray[np.float32],
    boxes_QT4: NDArray[np.int64],
    first_Q: list[int],
    size_px: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Atlas index and 1/depth of every pixel, (T, H, W) each."""
    num_frames = plane_QT33.shape[1]
    ray = ((np.arange(size_px) + 0.5) / size_px - 0.5) / FOCAL_PER_SIZE
    ray = ray.astype(np.float32)
    texel = np.zeros((num_frames, size_px, size_px), np.int32)
    nearest = np.zeros((num_frames, size_px, size_px), np.float32)
    for quad, plane_T33, boxes_T4, first in zip(quads, plane_QT33, boxes_QT4, first_Q, strict=True):
        left, top = boxes_T4[:, :2].min(axis=0)
        right, bottom = boxes_T4[:, 2:].max(axis=0)
        if left >= right or top >= bottom:
            continue
        window = (slice(None), slice(top, bottom), slice(left, right))
        u, v, w = (
            plane_T33[:, row, 0, None, None] * ray[left:right]
            + (plane_T33[:, row, 1, None] * ray[top:bottom] + plane_T33[:, row, 2, None])[
                :, :, None
            ]
            for row in range(3)
        )
        is_seen = w > nearest[window]
        if quad.is_ellipse:
            is_seen &= np.square(2 * u - w) + np.square(2 * v - w) < np.square(w)
        else:
            is_seen &= (u >= 0) & (u < w) & (v >= 0) & (v < w)
        w_seen = w[is_seen]
        if len(w_seen) == 0:
            continue
        side = len(quad.texture_SS3)
        column = (u[is_seen] / w_seen * side).astype(np.int32)
        row = (v[is_seen] / w_seen * side).astype(np.int32)
        # Rounding can reach the texture's far edge although u < w.
        np.minimum(column, side - 1, out=column)
        np.minimum(row, side - 1, out=row)
        texel[window][is_seen] = first + row * side + column
        nearest[window][is_seen] = w_seen
    return texel, nearest


def _in_camera(camera: Camera, vector_T3: Array) -> Array:
    vector_T3 = np.broadcast_to(vector_T3, camera.position_T3.shape)
    return np.asarray(np.einsum("tji,tj->ti", camera.rotation_T33, vector_T3))


def _planes(quad: Quad, camera: Camera) -> NDArray[np.float32]:
    """(T, 3, 3): rows give u/depth, v/depth and 1/depth from the ray (x, y, 1)."""
    origin = _in_camera(camera, quad.origin_T3 - camera.position_T3)
    edge_u, edge_v = _in_camera(camera, quad.edge_u_T3), _in_camera(camera, quad.edge_v_T3)
    normal = np.cross(edge_u, edge_v)
    volume = np.einsum("ti,ti->t", origin, normal)
    is_drawn = np.abs(volume) > 1e-12
    if not quad.is_two_sided:
        is_drawn &= volume < 0
    rows = np.stack([np.cross(edge_v, origin), np.cross(origin, edge_u), normal], axis=1)
    rows /= np.where(is_drawn, volume, 1.0)[:, None, None]
    # A plane behind everything: 1/depth below zero is never nearest.
    rows[~is_drawn] = [[0, 0, 0], [0, 0, 0], [0, 0, -1]]
    return rows.astype(np.float32)


def _boxes(quad: Quad, camera: Camera) -> NDArray[np.int64]:
    """(T, 4): left, top and (exclusive) right, bottom pixel; the whole image near the camera."""
    size = camera.size_px
    origin = _in_camera(camera, quad.origin_T3 - camera.position_T3)
    edge_u, edge_v = _in_camera(camera, quad.edge_u_T3), _in_camera(camera, quad.edge_v_T3)
    corners = np.stack([origin, origin + edge_u, origin + edge_v, origin + edge_u + edge_v], axis=1)
    is_near = (corners[:, :, 2] < NEAR_M).any(axis=1)
    is_behind = (corners[:, :, 2] < NEAR_M).all(axis=1)
    depth = np.maximum(corners[:, :, 2:], NEAR_M)
    pixel = (corners[:, :, :2] / depth * FOCAL_PER_SIZE + 0.5) * size
    low, high = np.floor(pixel.min(axis=1)), np.ceil(pixel.max(axis=1))
    box = np.asarray(np.clip(np.concatenate([low, high], axis=1), 0, size), dtype=np.int64)
    box[is_near] = [0, 0, size, size]
    box[is_behind] = [size, size, 0, 0]
    return box


def _atlas(quads: Sequence[Quad]) -> tuple[NDArray[np.uint8], list[int]]:
    """All texels in one list, (texels, 3), and where each quad's begin; texel 0 is black."""
    parts = [np.zeros((1, 3), np.uint8)]
    first, count = [], 1
    for quad in quads:
        first.append(count)
        parts.append(quad.texture_SS3.reshape(-1, 3))
        count += quad.texture_SS3.shape[0] ** 2
    return np.concatenate(parts), first

"""What a report shows of a clip: its stored frames, small, and how strongly the head moved."""

# n clips, K stored frames, W IMU samples

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import simplejpeg
from numpy.typing import NDArray

from egoctl.pipeline.records import OK
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.jpeg import frame_size, unreadable_jpeg

THUMBNAIL_PX = 96
JPEG_QUALITY = 75
PLOT_POINTS = 72
PLOT_WIDTH, PLOT_HEIGHT = 200, 48


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipPicture:
    """A clip's frames as data: URIs, and the magnitude of its motion; no IMU: empty arrays."""

    frames: tuple[str, ...]
    accel_W: NDArray[np.float32]
    """m/s^2, the clip's mean (and so gravity) removed per axis."""
    gyro_W: NDArray[np.float32]
    """rad/s, likewise."""


def clip_pictures(inputs: FeatureStore, clip_ids: Sequence[str]) -> dict[str, ClipPicture]:
    """Pictures of clips of an inputs store, by clip id; all of them must have frames.

    Raises:
        StoreError: if a frame cannot be decoded.
    """
    ids = list(dict.fromkeys(clip_ids))
    wanted = pl.DataFrame({"clip_id": ids}, schema={"clip_id": pl.String})
    found = wanted.join(inputs.rows(), on="clip_id", how="left", maintain_order="left")
    rows = found["row"].to_numpy().astype(np.int64)
    frames_nK = inputs.read("frames", rows)
    imu_nW6 = inputs.read("imu", rows)
    nothing = np.zeros(0, dtype=np.float32)
    return {
        clip_id: ClipPicture(
            frames=tuple(thumbnail(jpeg) for jpeg in frames_K),
            accel_W=np.linalg.norm(imu_W6[:, :3], axis=1) if imu_outcome == OK else nothing,
            gyro_W=np.linalg.norm(imu_W6[:, 3:], axis=1) if imu_outcome == OK else nothing,
        )
        for clip_id, imu_outcome, frames_K, imu_W6 in zip(
            ids, found["imu_outcome"], frames_nK, imu_nW6, strict=True
        )
    }


def thumbnail(jpeg: bytes) -> str:
    """A data: URI of the frame, a half to an eighth as large, but no side below THUMBNAIL_PX.

    Raises:
        StoreError: if it is no readable JPEG.
    """
    frame_size(jpeg)  # refuses headers that promise more than memory holds
    try:
        pixels_HW3 = simplejpeg.decode_jpeg(
            jpeg, "RGB", min_height=THUMBNAIL_PX, min_width=THUMBNAIL_PX
        )
    except ValueError as error:
        raise unreadable_jpeg(error) from error
    small = simplejpeg.encode_jpeg(pixels_HW3, quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(small).decode("ascii")


def plot_points(magnitude_W: NDArray[np.float32], *, highest: float) -> str:
    """The points of an SVG polyline, PLOT_WIDTH x PLOT_HEIGHT, highest at its upper edge."""
    if not len(magnitude_W):
        return ""
    at = np.unique(np.linspace(0, len(magnitude_W) - 1, PLOT_POINTS).round().astype(int))
    x = at / max(1, len(magnitude_W) - 1) * PLOT_WIDTH
    y = PLOT_HEIGHT * (1 - magnitude_W[at] / max(highest, 1e-9))
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True))

"""A made-up download of Ego4D for tests: annotations of its documented form, videos, IMU files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egoctl.pipeline.datasets.dataset_recipe import DatasetBuild
from egoctl.pipeline.datasets.ego4d.hands_objects import Ego4dSource, build_ego4d
from egoctl.tests.worlds.extract_world import draw_colours

IMU_HEADER = (
    "component_idx,component_timestamp_ms,canonical_timestamp_ms,"
    "gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"
)
ImuRow = list[str]
CUT, PUT = "cut_(trim,_slice,_chop)", "put_(place,_leave,_drop)"


def recorded(*, seconds: float = 6, rate_hz: float = 200, component: int = 0) -> list[ImuRow]:
    """The IMU rows of a worn camera; gyro_x counts the samples: 0.001 rad/s each."""
    rng = np.random.default_rng(component)
    rows = []
    for index in range(round(seconds * rate_hz)):
        time_ms = 1000 * index / rate_hz
        gyro = [index / 1000, *rng.normal(0, 0.3, 2)]
        accel = rng.normal([9.8, 0, 0], 0.5)
        values = [f"{value:.6f}" for value in (*gyro, *accel)]
        rows.append([str(component), f"{time_ms:.3f}", f"{time_ms:.3f}", *values])
    return rows


def write_imu(path: Path, rows: Sequence[ImuRow], *, header: str = IMU_HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def action(uid: str, verb: str | None, pre: int, post: int, **changes: Any) -> dict[str, Any]:
    """A narrated action without fault, but for what is changed."""
    return {
        "uid": uid,
        "start_sec": pre / 30 - 2,
        "end_sec": pre / 30 + 6,
        "narration_text": f"#C C does {uid}",
        "structured_verb": verb,
        "freeform_verb": None,
        "state_transition": None,
        "is_valid_action": True,
        "is_partial": False,
        "is_rejected": False,
        "is_invalid_annotation": False,
        "reject_reason": None,
        "stage": "Critical Frames",
        "critical_frames": {
            "pre_45": pre - 45,
            "pre_30": pre - 30,
            "pre_15": pre - 15,
            "pre_frame": pre,
            "contact_frame": pre + 5,
            "pnr_frame": pre + 10,
            "post_frame": post,
        },
        "clip_critical_frames": None,
        "frames": None,
    } | changes


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dWorld:
    """The folder that Ego4D's downloader was told to fill."""

    root: Path

    @property
    def fho_main(self) -> Path:
        return self.root / "v2" / "annotations" / "fho_main.json"

    @property
    def imu(self) -> Path:
        return self.root / "v2" / "imu"

    def annotate(
        self, actions: Mapping[str, Sequence[Mapping[str, Any]]], *, fps: float | None = 30.0
    ) -> None:
        """Write fho_main.json: the actions of each video, ten minutes long, in two intervals."""
        videos = [
            {
                "video_uid": uid,
                "video_metadata": {"fps": fps, "num_frames": 18000, "duration_sec": 600.0},
                "annotated_intervals": [
                    {"clip_uid": f"{uid}-a", "start_sec": 0, "narrated_actions": list(found)},
                    {"clip_uid": f"{uid}-b", "start_sec": 300, "narrated_actions": None},
                ],
            }
            for uid, found in actions.items()
        ]
        self.fho_main.parent.mkdir(parents=True, exist_ok=True)
        content = {"version": "2.0", "description": "made up", "videos": videos}
        self.fho_main.write_text(json.dumps(content))

    def describe(self, has_imu: Mapping[str, bool], **participants: int | None) -> None:
        """Write ego4d.json."""
        self.root.mkdir(parents=True, exist_ok=True)
        videos = [
            {"video_uid": uid, "has_imu": known, "fb_participant_id": participants.get(uid)}
            for uid, known in has_imu.items()
        ]
        (self.root / "ego4d.json").write_text(json.dumps({"videos": videos}))

    def film(self, uid: str, *, seconds: float = 6, folder: str = "full_scale") -> Path:
        """Draw a video of the download."""
        return draw_colours(self.root / "v2" / folder / f"{uid}.mp4", seconds=seconds)


def two_verbs(root: Path) -> Ego4dWorld:
    """Annotations of two videos with IMU and one without; each shows both verbs twice."""
    found = Ego4dWorld(root=root)
    found.annotate(
        {
            uid: [
                action(f"{uid}-{number}", (CUT, PUT)[number % 2], 300 * number, 300 * number + 66)
                for number in range(1, 5)
            ]
            for uid in ("v1", "v2", "silent")
        }
    )
    found.describe({"v1": True, "v2": True, "silent": False}, v1=12)
    return found


def build(world: Ego4dWorld, **changes: Any) -> DatasetBuild:
    """The manifest of a download, whose paths are relative to the folder around it."""
    return build_ego4d(Ego4dSource(root=world.root, **changes), manifest_folder=world.root.parent)

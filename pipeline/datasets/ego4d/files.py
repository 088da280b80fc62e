"""Where Ego4D's downloader puts things, and what its ego4d.json has on each video."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.datasets.dataset_recipe import NotDownloadedError
from egoctl.pipeline.errors import ManifestError

_VERSIONS = ("v2", "v2_1", "v1")
"""Folders of the download, the one to be preferred first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dVideo:
    """What ego4d.json has on a video."""

    has_imu: bool
    participant: str | None
    """Who wore the camera; None where Ego4D does not name them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dFiles:
    """The folders and files of a download."""

    annotations: Path
    """fho_main.json."""
    videos: Path
    """Holds UID.mp4."""
    imu: Path
    """Holds UID.csv."""
    metadata: dict[str, Ego4dVideo] | None
    """By video_uid; None without ego4d.json."""

    def video(self, uid: str) -> Path:
        return self.videos / f"{uid}.mp4"

    def has_imu(self, uid: str) -> bool:
        """By ego4d.json, so that a manifest is the same before and after the download."""
        if self.metadata is not None and uid in self.metadata:
            return self.metadata[uid].has_imu
        return self.imu_file(uid).is_file()

    def imu_file(self, uid: str) -> Path:
        return self.imu / f"{uid}.csv"

    def participant(self, uid: str) -> str:
        known = (self.metadata or {}).get(uid)
        return "unknown" if known is None or known.participant is None else known.participant


def find_ego4d(root: Path, *, videos: str, annotations: Path | None = None) -> Ego4dFiles:
    """The files of a download at root, which holds v2/ or is that folder itself.

    videos is one of its folders (full_scale, video_540ss) or a folder anywhere. Videos and IMU
    need not be there yet.

    Raises:
        NotDownloadedError: if there is no fho_main.json.
        ManifestError: if ego4d.json is damaged.
    """
    folder = next((root / name for name in _VERSIONS if (root / name).is_dir()), root)
    fho_main = annotations or folder / "annotations" / "fho_main.json"
    if not fho_main.is_file():
        raise NotDownloadedError(
            f"no {fho_main}. Give the folder of Ego4D's downloader (it holds v2/annotations), "
            "or --annotations fho_main.json."
        )
    inside = folder / videos
    metadata = next(
        (file for file in (folder / "ego4d.json", root / "ego4d.json") if file.is_file()), None
    )
    return Ego4dFiles(
        annotations=fho_main,
        videos=inside if inside.is_dir() or not Path(videos).is_dir() else Path(videos),
        imu=folder / "imu",
        metadata=None if metadata is None else _read_metadata(metadata),
    )


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ManifestError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: not readable JSON ({error}). Download it again.") from error


def _read_metadata(path: Path) -> dict[str, Ego4dVideo]:
    try:
        return {
            str(video["video_uid"]): Ego4dVideo(
                has_imu=bool(video["has_imu"]),
                participant=None if (who := video.get("fb_participant_id")) is None else str(who),
            )
            for video in read_json(path)["videos"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{path}: wanted a list 'videos' of video_uid and has_imu ({error!r}). "
            "Download it again."
        ) from error

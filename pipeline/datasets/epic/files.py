"""Finds the videos and IMU files of EPIC-KITCHENS on a disk.

The download scripts write EPIC-KITCHENS/PXX/videos/PXX_YY.MP4 and, for the extension,
EPIC-KITCHENS/PXX/meta_data/PXX_1YY-accl.csv and -gyro.csv. A flat folder of files will do as well.
"""

import os
from pathlib import Path

from egoctl.pipeline.datasets.dataset_recipe import NotDownloadedError
from egoctl.pipeline.datasets.folder import VIDEO_SUFFIXES
from egoctl.pipeline.imu.epic import ACCEL_SUFFIX, GYRO_SUFFIX

OFFICIAL_FOLDER = "EPIC-KITCHENS"
_VIDEO_SUFFIXES = (".MP4", *VIDEO_SUFFIXES)


class EpicFiles:
    """Looks names up in the folders where they belong; each folder is listed once.

    Nothing is searched: extracted frames beside the videos may be millions of files.
    """

    def __init__(self, data: Path) -> None:
        """Data is the folder that holds EPIC-KITCHENS, that folder itself, or a flat one.

        Raises:
            NotDownloadedError: if there is no such folder.
        """
        if not data.is_dir():
            raise NotDownloadedError(f"no folder {data}. Give --data the folder of EPIC-KITCHENS.")
        official = data / OFFICIAL_FOLDER
        self._root = official if official.is_dir() else data
        self._data = data
        self._names_in: dict[Path, frozenset[str]] = {}

    def video(self, participant_id: str, video_id: str) -> Path | None:
        """The video's file, or None."""
        for folder in self._folders(participant_id, "videos"):
            for suffix in _VIDEO_SUFFIXES:
                if video_id + suffix in self._names(folder):
                    return folder / (video_id + suffix)
        return None

    def accel_csv(self, participant_id: str, video_id: str) -> Path | None:
        """The accelerometer's half of the pair that is an imu_path; None unless both are there."""
        for folder in self._folders(participant_id, "meta_data"):
            pair = {video_id + ACCEL_SUFFIX, video_id + GYRO_SUFFIX}
            if pair <= self._names(folder):
                return folder / (video_id + ACCEL_SUFFIX)
        return None

    def _folders(self, participant_id: str, kind: str) -> tuple[Path, ...]:
        return (self._root / participant_id / kind, self._data)

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._names_in:
            is_there = folder.is_dir()
            self._names_in[folder] = frozenset(os.listdir(folder) if is_there else ())
        return self._names_in[folder]

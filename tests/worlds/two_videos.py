"""A small world of two recordings, and segments of them, for tests of whole extractions."""

import shutil
from pathlib import Path

from egoctl.tests.worlds.extract_world import World, draw_colours, write_imu

A_LONG = {"segment_id": "a-long", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4}
A_INNER = {"segment_id": "a-inner", "video": "a.mp4", "imu": "a.csv", "start_s": 1, "stop_s": 3.5}
B_LONG = {"segment_id": "b-long", "video": "b.mp4", "imu": "b.csv", "start_s": 0, "stop_s": 3}
B_SHORT = {"segment_id": "b-short", "video": "b.mp4", "imu": "b.csv", "start_s": 0.5, "stop_s": 1.3}
B_BARE = {"segment_id": "b-bare", "video": "b.mp4", "imu": "", "start_s": 0, "stop_s": 2}
ROWS = [A_LONG, A_INNER, B_LONG, B_SHORT]
"""5 + 2 + 3 + 1 clips: windows of 2 s every 0.5 s; the last segment is shorter than a window."""


def draw_two_videos(folder: Path, *, b_seconds: int = 3) -> Path:
    """Draw a.mp4, of 4 s, and b.mp4 with their IMU files; the folder."""
    draw_colours(folder / "videos" / "a.mp4", seconds=4)
    draw_colours(folder / "videos" / "b.mp4", seconds=b_seconds, first=200)
    write_imu(folder / "imu" / "a.csv", seconds=4)
    write_imu(folder / "imu" / "b.csv", seconds=b_seconds, seed=2)
    return folder


def copy_of(drawn: Path, folder: Path) -> World:
    """The drawn files in a world of a test's own, which it may change."""
    shutil.copytree(drawn, folder)
    return World(folder=folder)

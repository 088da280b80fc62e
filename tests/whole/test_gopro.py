"""The whole job on real recordings: a walk with a GoPro MAX, a flight with a GoPro HERO5."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egoctl.pipeline.teachers import lineup
from egoctl.tests.worlds.extract_world import MeanTeacher, stored, write_annotations
from egoctl.tests.worlds.invoked import run
from egoctl.tests.worlds.places import DATA

GOPRO = DATA / "gopro"
WALK, FLIGHT = "max-heromode.mp4", "karma.mp4"
pytestmark = pytest.mark.skipif(
    not (GOPRO / WALK).is_file() or not (GOPRO / FLIGHT).is_file(),
    reason=f"needs {WALK} and {FLIGHT} in {GOPRO}; set EGOCTL_TEST_DATA to their parent folder",
)


def extract(manifest: Path, folder: Path, *more: str) -> tuple[int, str]:
    def load(name: str, *, weights: str, device: torch.device) -> MeanTeacher:
        return MeanTeacher(name, num_classes=2)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lineup, "load_teacher", load)
        return run(
            *("extract-teacher", manifest, "--teacher", "means", "--device", "cpu"),
            *("--store", folder / "t.store", "--inputs", folder / "i.store"),
            *("--frame-px", "64", *more),
        )


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a manifest of dense windows, extracted."""
    folder = tmp_path_factory.mktemp("gopro")
    code, out = run(
        *("manifest", "build", "dense", "--videos", GOPRO, "--imu", "self", "--stride", "0.5"),
        *("--out", folder / "dense.parquet"),
    )
    assert code == 0, out
    # 10.5 s hold 17 windows of 64/30 s every 0.5 s, 12.1 s hold 20.
    assert "37 clips of 2.1333 s, every 0.5 s." in out
    code, out = extract(folder / "dense.parquet", folder)
    assert (code, "All 37 clips of the manifest are stored." in out) == (0, True)
    return folder


def test_manifest_check_finds_both_recordings_healthy(dense: Path) -> None:
    code, out = run("manifest", "check", dense / "dense.parquet", "--json")

    found: dict[str, Any] = json.loads(out)
    assert (code, found["num_bad"], found["num_clips"]) == (0, 0, 37)
    files = {file["video_id"]: file for file in found["files"]}
    walk, flight = files[WALK], files[FLIGHT]
    assert (walk["codec"], walk["width"], walk["height"]) == ("h264", 848, 480)
    for file in (walk, flight):
        assert (file["video_verdict"], file["imu_verdict"]) == ("ok", "ok")
        assert file["fps"] == pytest.approx(29.97, abs=0.01)
        assert file["is_variable_rate"] is False
        assert file["imu_coverage"] > 0.99
        assert (file["num_non_monotonic"], file["duplicated_axes"]) == (0, [])
        # A camera that is carried, or hovers, feels gravity on average.
        assert file["accel_norm_mean"] == pytest.approx(9.8, abs=0.1)
    assert walk["duration_s"] == pytest.approx(10.51, abs=0.01)
    assert walk["accel_rate_hz"] == pytest.approx(197.5, abs=0.1)
    assert walk["gyro_rate_hz"] == pytest.approx(197.5, abs=0.1)


def test_dense_windows_of_real_recordings_fill_both_stores_without_a_failure(dense: Path) -> None:
    targets, inputs = stored(str(dense / "t.store")), stored(str(dense / "i.store"))

    assert targets.keys() == inputs.keys()
    assert len(targets) == 37
    for clip_id, row in inputs.items():
        assert (row.outcome, row.imu_outcome, targets[clip_id].outcome) == ("ok", "ok", "ok")
        imu_W6 = row.arrays["imu"]
        assert imu_W6.shape == (422, 6)
        assert np.isfinite(imu_W6).all()
        assert np.abs(imu_W6.mean(axis=0)).max() < 1e-4
        # The removed mean keeps gravity.
        assert 8 < np.linalg.norm(row.arrays["imu_mean"][:3]) < 12
        times_s = row.arrays["frame_time"]
        start_s = float(clip_id.rpartition("@")[2].partition("-")[0])
        wanted_s = start_s + 64 / 30 * np.array([1, 3, 5]) / 6
        assert (times_s <= wanted_s + 1e-3).all() and (times_s > wanted_s - 1 / 29.9).all()
        assert np.isfinite(targets[clip_id].arrays["feature"]).all()
    walked = [row.arrays for name, row in inputs.items() if name.startswith(WALK)]
    accel_NW = np.stack(
        [np.linalg.norm(row["imu"][:, :3] + row["imu_mean"][:3], axis=1) for row in walked]
    )
    spectrum = np.abs(np.fft.rfft(accel_NW - accel_NW.mean(axis=1, keepdims=True))).mean(axis=0)
    # The walker's steps, 1.7 a second, as far as a window of 2.1 s resolves it.
    assert np.fft.rfftfreq(422, 1 / 198)[spectrum.argmax()] == pytest.approx(1.7, abs=0.25)


def test_a_student_trains_on_real_recordings_and_is_evaluated(dense: Path) -> None:
    splits = ["train", "train", "val", "test"]
    rows = [
        {
            "segment_id": f"{label}-{number}",
            "video": video,
            "imu": "self",
            "start_s": 2.5 * number,
            "stop_s": 2.5 * number + 2.4,
            "label": label,
            "split": split,
        }
        for video, label in ((WALK, "walk"), (FLIGHT, "fly"))
        for number, split in enumerate(splits)
    ]
    write_annotations(dense / "ANN.csv", rows)
    manifest = dense / "labelled.parquet"
    code, out = run(
        *("manifest", "build", "folder", dense / "ANN.csv", "--videos", GOPRO),
        *("--stride", "0.1", "--out", manifest),
    )
    assert code == 0, out
    code, out = extract(manifest, dense)  # into the stores that hold the dense windows already
    # 2.4 s hold three windows every 0.1 s.
    assert (code, "24 clips in 1 parts" in out) == (0, True), out

    code, out = run(
        *("train-student", manifest, "--store", dense / "t.store", "--inputs", dense / "i.store"),
        *("--run", dense / "run", "--method", "egodistill", "--image-weights", "random"),
        *("--epochs", "2", "--batch-size", "6", "--device", "cpu"),
    )
    assert (code, "12 clips of 4 segments" in out) == (0, True), out
    lines = (dense / "run" / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(math.isfinite(epoch["loss"]) for epoch in epochs)

    code, out = run("evaluate", dense / "run", "--split", "test", "--json")
    metrics = json.loads(out)
    assert (code, metrics["num_segments"], metrics["num_scored"]) == (0, 2, 2)
    assert metrics["top1"] in (0, 0.5, 1)
    assert (dense / "run" / "predictions.parquet").is_file()

"""Peak memory and speed of the two commands that people wait for, as they type them."""

import json
import shutil
import sys
from pathlib import Path

from egoctl.pipeline.runs.run_folder import METRICS_FILE
from egoctl.tests.benchmarks.figures import Figure, Setup
from egoctl.tests.benchmarks.measured_process import Usage, measured

MIB = 2**20
NUM_SEGMENTS = 10
"""Per participant, of ten participants."""
NUM_EPOCHS = 3
TEACHER = "lite0_temporal"


def run(setup: Setup) -> list[Figure]:
    """Both commands on a small demo world, anew in every repeat."""
    world, clips = setup.folder / "world", setup.folder / "world.parquet"
    _egoctl("demo", "world", "--out", str(world), "--segments", str(NUM_SEGMENTS))
    _egoctl(
        "manifest", "build", "folder", str(world / "ANN.csv"), "--videos", str(world / "videos"),
        "--imu", str(world / "imu"), "--out", str(clips),
    )  # fmt: skip
    extracted: list[Usage] = []
    trained: list[Usage] = []
    extract_rates: list[float] = []
    train_rates: list[float] = []
    for _ in range(setup.repeats):
        folder = setup.folder / "commands"
        usage = _egoctl(
            "extract-teacher", str(clips), "--teacher", TEACHER, "--weights", "random:0",
            "--store", str(folder / "teacher.store"), "--inputs", str(folder / "inputs.store"),
            "--frames", "1", "--device", setup.device.type, "--json",
        )  # fmt: skip
        report = json.loads(usage.output)
        extracted.append(usage)
        extract_rates.append(report["num_read"] / report["seconds"]["wall"])
        trained.append(_train(clips, folder, setup))
        metrics = (folder / "run" / METRICS_FILE).read_text().splitlines()
        train_rates.append(json.loads(metrics[-1])["clips_per_s"])
        shutil.rmtree(folder)
    num_clips = report["num_clips"]
    return [
        *_figures(
            f"extract-teacher {TEACHER}, {num_clips} clips", extracted, "the pass", extract_rates
        ),
        *_figures(
            f"train-student egodistill, {NUM_EPOCHS} epochs", trained, "the last epoch", train_rates
        ),
    ]


def _train(clips: Path, folder: Path, setup: Setup) -> Usage:
    return _egoctl(
        "train-student", str(clips), "--store", str(folder / "teacher.store"),
        "--inputs", str(folder / "inputs.store"), "--run", str(folder / "run"),
        "--method", "egodistill", "--image-encoder", "efficientnet_lite0",
        "--freeze-image-encoder", "--epochs", str(NUM_EPOCHS), "--device", setup.device.type,
    )  # fmt: skip


def _figures(
    name: str, usages: list[Usage], timed_part: str, clips_per_s: list[float]
) -> list[Figure]:
    return [
        Figure(benchmark="processes", name=f"{name}: {what}", unit=unit, values=tuple(values))
        for what, unit, values in (
            ("peak memory", "MiB", [usage.peak_bytes / MIB for usage in usages]),
            ("from start to end", "s", [usage.seconds for usage in usages]),
            (timed_part, "clips/s", clips_per_s),
        )
    ]


def _egoctl(*arguments: str) -> Usage:
    return measured([sys.executable, "-m", "egoctl.cli", *arguments])

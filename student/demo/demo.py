"""The whole job on the demo world; every step is a command that a user could type.

Rendering, the teacher and extraction run as `egoctl` commands in processes of their own (this
room may not import them); the many small training runs share two worker processes.
"""

import io
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.demo.report import ControlResult, DemoResult, MethodResult

METHODS = ("egodistill", "visonly-distill", "visimu", "visonly", "imuonly")
CONTROL_METHODS = ("egodistill", "visonly-distill")
SEES = ("image", "imu", "both")
STUDENT_SETTINGS: dict[str, Any] = {
    "image_encoder": "efficientnet_lite0",
    "freeze_image_encoder": True,
    "imu_readout": "last",
    "imu_out": 256,
    "fusion_hidden": 512,
    "num_epochs": 30,
    "epoch_over": "segments",
    "learning_rate": 1e-3,
    "schedule": "onecycle",
    "tau": 4.0,
    "device": "cpu",
}
"""Chosen on a prototype of this world, before this one was rendered; written to student.toml."""
TEACHER_OPTIONS = (
    *("--epochs", "12", "--batch-size", "32", "--lr", "2e-3", "--schedule", "onecycle"),
    *("--label-smoothing", "0.1", "--flip", "0.5", "--device", "cpu"),
)
"""Options of the teacher's fitting: a small network on an image network's output."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """How large a demo."""

    out: Path
    seed: int = 0
    num_seeds: int = 3
    segments: int = 200
    """Per participant, of ten participants."""
    control_segments: int = 100
    """The same for the world where heads do not follow the hand."""
    trajectories: int = 300
    """Per participant, un-rendered, for the ceilings."""
    workers: int = 2


def run_demo(config: DemoConfig, say: Say) -> DemoResult:
    """Render, extract, train and evaluate; results.json is written into config.out.

    Run again after an interruption it goes on: finished steps find their results in place.

    Raises:
        EgoctlError: if a step fails.
    """
    start = time.perf_counter()
    out = config.out
    world = _prepare(
        config, out, out / "teacher" / "teacher.safetensors", coupling="normal", say=say
    )
    control_out = out / "control"
    _prepare(config, control_out, out / "teacher" / "teacher.safetensors", coupling="zero", say=say)
    trajectories = world / "trajectories.npz"
    jobs = [
        _Job(out=out, method=method, seed=seed) for method in METHODS for seed in _seeds(config)
    ]
    jobs += [
        _Job(out=control_out, method=method, seed=seed)
        for method in CONTROL_METHODS
        for seed in _seeds(config)
    ]
    say(f"\nTraining and evaluating {len(jobs)} students, each such as:")
    say(f"$ egoctl {' '.join(_train_arguments(jobs[0]))}")
    say(f"$ egoctl evaluate {jobs[0].run_dir}")
    # Frozen image features are shared through a cache: the first run of each world fills it.
    first = [
        _run_job(next(job for job in jobs if job.out == folder)) for folder in (out, control_out)
    ]
    found = {job_result.key: job_result for job_result in first}
    ceilings: dict[str, float] = {}
    with ProcessPoolExecutor(
        config.workers, multiprocessing.get_context("spawn"), initializer=_one_thread
    ) as pool:
        futures: dict[Future[Any], str | None] = {
            pool.submit(_run_job, job): None for job in jobs if job.key not in found
        }
        futures |= {pool.submit(_ceiling, trajectories, sees, config.seed): sees for sees in SEES}
        for done, future in enumerate(as_completed(futures), start=1):
            sees = futures[future]
            if sees is not None:
                ceilings[sees] = future.result()
                what = f"ceiling of a network that sees {sees}: {ceilings[sees]:.3f}"
            else:
                result = future.result()
                found[result.key] = result
                what = f"{result.key}: top-1 {result.top1:.3f}"
            say(f"[{done}/{len(futures)}] {what}")
    result = DemoResult(
        methods=_methods(out, METHODS, config, found),
        teacher_top1=found[jobs[0].key].teacher_top1,
        egodistill_other_imu=tuple(
            found[_Job(out=out, method="egodistill", seed=seed).key].other_imu_top1 or 0.0
            for seed in _seeds(config)
        ),
        control=ControlResult(
            methods=_methods(control_out, CONTROL_METHODS, config, found),
            teacher_top1=found[_Job(out=control_out, method="egodistill", seed=0).key].teacher_top1,
        ),
        ceilings=ceilings,
        coupling=json.loads((world / "world.json").read_text())["config"]["coupling"],
        num_test_segments=found[jobs[0].key].num_scored,
        seconds=time.perf_counter() - start,
    )
    result.write(out / "results.json")
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """One student of one world."""

    out: Path
    method: str
    seed: int

    @property
    def run_dir(self) -> Path:
        return self.out / "students" / f"{self.method}-{self.seed}"

    @property
    def key(self) -> str:
        return str(self.run_dir)


@dataclass(frozen=True, kw_only=True, slots=True)
class _JobResult:
    key: str
    top1: float
    other_imu_top1: float | None
    teacher_top1: float
    num_scored: int


def _prepare(config: DemoConfig, out: Path, teacher: Path, *, coupling: str, say: Say) -> Path:
    """World, manifest, teacher (fitted once, on the first world) and both stores."""
    world, clips = out / "world", out / "clips.parquet"
    segments = config.segments if coupling == "normal" else config.control_segments
    _command(
        ["demo", "world", "--out", str(world), "--seed", str(config.seed),
         "--segments", str(segments), "--coupling", coupling,
         "--trajectories", str(config.trajectories if coupling == "normal" else 0)],
        say,
    )  # fmt: skip
    # 8 frames at 30 fps: two clips of 64 frames in a segment of 72.
    _command(
        ["manifest", "build", "folder", str(world / "ANN.csv"), "--videos", str(world / "videos"),
         "--imu", str(world / "imu"), "--stride", "0.266666", "--out", str(clips)],
        say,
    )  # fmt: skip
    if not teacher.is_file():
        _command(
            ["finetune-teacher", str(clips), "--teacher", "lite0_temporal",
             "--weights", f"random:{config.seed}", "--run", str(teacher.parent),
             "--seed", str(config.seed), *TEACHER_OPTIONS],
            say,
        )  # fmt: skip
    _command(
        ["extract-teacher", str(clips), "--teacher", "lite0_temporal", "--weights", str(teacher),
         "--store", str(out / "teacher.store"), "--inputs", str(out / "inputs.store"),
         "--frames", "1", "--frame-px", "128", "--device", "cpu"],
        say,
    )  # fmt: skip
    settings = STUDENT_SETTINGS | {"feature_cache": str(out / "features")}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (out / "student.toml").write_text("\n".join(lines) + "\n")
    return world


def _train_arguments(job: _Job) -> list[str]:
    return [
        "train-student", str(job.out / "clips.parquet"), "--store", str(job.out / "teacher.store"),
        "--inputs", str(job.out / "inputs.store"), "--run", str(job.run_dir),
        "--method", job.method, "--config", str(job.out / "student.toml"), "--seed", str(job.seed),
    ]  # fmt: skip


def _run_job(job: _Job) -> _JobResult:
    from egoctl.student.evaluation.evaluate import evaluate
    from egoctl.student.settings.config_file import read_settings, train_config
    from egoctl.student.training.train import train

    settings = read_settings(job.out / "student.toml") | {
        "manifest": str(job.out / "clips.parquet"),
        "inputs": str(job.out / "inputs.store"),
        "teacher": str(job.out / "teacher.store"),
        "run": str(job.run_dir),
        "method": job.method,
        "seed": job.seed,
    }
    other = None
    # Every run keeps its own log; two of them talking at once would be noise.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        train(train_config(settings))
        metrics = evaluate(job.run_dir, split="test")
        if job.method == "egodistill":
            other = evaluate(job.run_dir, split="test", imu="other").top1
    if metrics.top1 is None or metrics.teacher_top1 is None:
        raise EgoctlError(f"{job.run_dir}: the test split has no labelled segment.")
    return _JobResult(
        key=job.key,
        top1=metrics.top1,
        other_imu_top1=other,
        teacher_top1=metrics.teacher_top1,
        num_scored=metrics.num_scored,
    )


def _ceiling(trajectories: Path, sees: str, seed: int) -> float:
    from egoctl.student.demo.ceilings import ceiling

    return ceiling(trajectories, sees=sees, seed=seed, epochs=20)


def _one_thread() -> None:
    # Two processes of one thread each beat one of two: the networks are too small to split.
    import torch

    torch.set_num_threads(1)


def _seeds(config: DemoConfig) -> range:
    return range(config.num_seeds)


def _methods(
    out: Path, methods: Sequence[str], config: DemoConfig, found: dict[str, _JobResult]
) -> tuple[MethodResult, ...]:
    return tuple(
        MethodResult(
            method=method,
            top1=tuple(
                found[_Job(out=out, method=method, seed=seed).key].top1 for seed in _seeds(config)
            ),
        )
        for method in methods
    )


def _command(arguments: list[str], say: Say) -> None:
    say(f"\n$ egoctl {' '.join(arguments)}")
    code = subprocess.run([sys.executable, "-m", "egoctl.cli", *arguments], check=False).returncode
    if code:
        raise EgoctlError(f"that step ended with exit code {code}; its own messages are above.")

"""The page on redoing the paper: its studies are plans that exist, its costs can be calculated."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from egoctl.student.studies.plan import read_plan
from egoctl.tests.benchmarks.scale import MFU, Workload, gpu_hours
from egoctl.tests.worlds.places import ROOT

PAGE = (ROOT / "docs" / "reproduce-egodistill.md").read_text()
STUDIES = re.findall(r"^egoctl study (\S+) (.+)$", PAGE, re.MULTILINE)
FPS_1080P, FPS_480P, JPEG_BYTES = 124, 532, 14_454
"""The figures of docs/scale.md."""
EGOCTL_GMACS, STUDENT_GMACS = 189.2, 1.888
WINDOW_S = 64 / 30


def plan_of(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text())


@pytest.mark.parametrize(("path", "options"), STUDIES, ids=lambda text: text[:48])
def test_a_study_of_the_page_changes_what_its_plan_has(path: str, options: str) -> None:
    words = shlex.split(options)
    changes = [words[at + 1] for at, word in enumerate(words) if word == "--set"]

    read_plan(ROOT / path, changes)

    plan = plan_of(path)
    changed = {change.partition("=")[0] for change in changes}
    stores = {f"{kind}.{name}" for kind in ("inputs", "teachers") for name in plan[kind]}
    assert {name for name in changed if name.startswith(("inputs.", "teachers."))} == stores
    assert changed - stores <= {
        "manifest", "out", "settings.epoch_over", "settings.schedule",
    }  # fmt: skip


def test_every_plan_of_the_papers_tables_and_figures_is_on_the_page() -> None:
    plans = {path.name for path in (ROOT / "manifests" / "studies").glob("*.toml")}

    assert {Path(path).name for path, _ in STUDIES} == plans - {"demo.toml"}


def test_the_page_counts_the_students_of_all_plans() -> None:
    num_students = 0
    for path in {path for path, _ in STUDIES}:
        plan = plan_of(path)
        num_students += len(plan["rows"]) * len(plan["teachers"]) * len(plan["seeds"])

    assert f"{num_students} students" in " ".join(PAGE.split())


def test_the_papers_numbers_are_the_plans() -> None:
    for path in {path for path, _ in STUDIES}:
        for table in plan_of(path)["tables"].values():
            for row in table.get("paper", ()):
                for number in row["numbers"].values():
                    assert re.search(rf"(?<![\d.]){number:.2f}(?![\d.])", PAGE), (path, row)


def cells(title: str) -> list[str]:
    """What the table of costs says of both data sets."""
    (row,) = re.findall(rf"^\| {re.escape(title)} \| (.+) \|$", PAGE, re.MULTILINE)
    return [cell.removeprefix("up to ") for cell in row.split(" | ")]


def hours(num_clips: float, gmacs: float, *, passes: int = 1) -> str:
    """From the best to the worst use of the GPU that is reckoned with."""
    work = Workload(name="", num_frames=0, num_clips=round(num_clips))
    return " to ".join(two_digits(passes * gpu_hours(work, gmacs, mfu)) for mfu in MFU)


def two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:#.2g}"


def core_hours(num_frames: float, fps: float) -> str:
    return two_digits(num_frames / fps / 3600)


def test_the_costs_are_what_can_be_calculated_from_the_page_on_scale() -> None:
    clips = (35_200 * 4.8, 12_100)
    frames = (45.7 * 3600 * 50, 12_100 * 2.2 * 30)
    fitted = ((67_217 - 6_200) * 50, 8_500 * 50)
    # A window of the first videos has 60 frames a second, Ego4D's has 30.
    fitted_frames = (fitted[0] * WINDOW_S * 60, fitted[1] * WINDOW_S * 30)
    shown = (29_000 * 50, 8_500 * 150)

    assert cells("frames to decode once, millions") == [two_digits(n / 1e6) for n in frames]
    assert cells("that from 1080p, core-hours") == [core_hours(n, FPS_1080P) for n in frames]
    assert cells("that from 480p, core-hours") == [core_hours(n, FPS_480P) for n in frames]
    assert cells("MotionFormer over all clips, H100-hours") == [
        hours(n, EGOCTL_GMACS) for n in clips
    ]
    assert cells("targets, GB") == [two_digits(n * (768 + 397) * 2 / 1e9) for n in clips]
    for title, num_frames in (
        ("frames and IMU, K = 3, GB", 3),
        ("the same, K = 2, GB", 2),
        ("the same, K = 12, GB", 12),
    ):
        row_bytes = num_frames * (JPEG_BYTES + 8) + (422 + 1) * 6 * 4
        assert cells(title) == [two_digits(n * row_bytes / 1e9) for n in clips]
    assert cells("fine-tuning a teacher, 50 epochs: clips") == [f"{n:,}" for n in fitted]
    assert cells("fine-tuning, H100-hours") == [hours(n, EGOCTL_GMACS, passes=3) for n in fitted]
    assert cells("fine-tuning from 1080p, core-hours") == [
        core_hours(n, FPS_1080P) for n in fitted_frames
    ]
    assert cells("fine-tuning from 480p, core-hours") == [
        core_hours(n, FPS_480P) for n in fitted_frames
    ]
    assert cells("a student of one frame: clips") == [f"{n:,}" for n in shown]
    assert cells("a student, H100-hours") == [hours(n, STUDENT_GMACS, passes=3) for n in shown]
    # Clips a second of docs/benchmarks.md: ResNet-18 trained along, on two cores.
    assert cells("a student on two CPU cores without a GPU, hours") == [
        two_digits(n / 22.8 / 3600) for n in shown
    ]

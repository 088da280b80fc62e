"""The benchmark of real head IMU: what it cuts, whom it leaves out, and that nothing leaks."""

from pathlib import Path

import numpy as np
import pytest

from egoctl.tests.benchmarks import classyglass
from egoctl.tests.benchmarks.classyglass import fitted_student, forest_says, scores, student_says
from egoctl.tests.benchmarks.classyglass_windows import (
    FILE,
    Windows,
    accuracy_and_macro_f1,
    features,
    folds,
    read_windows,
)


def nods(num_people: int = 6, of_each: int = 12) -> Windows:
    """Two activities of every person: upright with a nod of 1 Hz, bent with one of 5 Hz."""
    drawn = np.random.default_rng(0)
    label_N = np.tile(np.arange(2), num_people * of_each // 2)
    person_N = np.repeat(np.arange(num_people), of_each)
    phase_N = drawn.uniform(0, 6.28, len(label_N))

    def at(hertz: float, num_samples: int) -> np.ndarray:
        time_s = np.arange(num_samples) / hertz
        turns = 2 * np.pi * np.where(label_N == 0, 1.0, 5.0)[:, None] * time_s
        values = np.zeros((len(label_N), num_samples, 6), dtype=np.float32)
        values[..., 1] = np.where(label_N == 0, 9.8, 5.0)[:, None]
        values[..., 4] = np.sin(turns + phase_N[:, None])
        return values + drawn.normal(0, 0.1, values.shape).astype(np.float32)

    return Windows(
        imu_NWA=at(198, 396), measured_NSA=at(50, 100), label_N=label_N, person_N=person_N,
        label_names=("slow", "fast"),
    )  # fmt: skip


def test_a_recording_becomes_windows_of_two_seconds_on_the_students_grid(tmp_path: Path) -> None:
    # Two recordings, of 2 s and of 4.9 s: 1 g, and a turn that grows by 1 deg/s a sample.
    values = np.zeros((345, 6), dtype=np.float16)
    values[:, 0], values[:, 1], values[:, 2] = 0.6, 0.8, np.arange(345) % 2 * 0.01
    values[:, 3], values[:, 5] = np.arange(345), -np.arange(345) / 2
    np.savez(
        tmp_path / "f.npz", x=values, offset=[0, 100, 345], label=[3, 1], subject=[7, 9],
        labels=["a", "b", "c", "d"],
    )  # fmt: skip

    windows = read_windows(tmp_path / "f.npz")

    assert windows.label_N.tolist() == [3, 1, 1]
    assert windows.person_N.tolist() == [7, 9, 9]
    assert windows.imu_NWA.shape == (3, 396, 6)
    assert windows.measured_NSA.shape == (3, 100, 6)
    assert windows.imu_NWA[0, :, 1] == pytest.approx(0.8 * 9.80665, rel=1e-3)
    # The third begins 200 samples into its recording; 1 deg/s a sample is 50 deg/s in a second.
    assert windows.measured_NSA[2, 0, 3] == pytest.approx(np.radians(200))
    steps = np.diff(windows.imu_NWA[1, :, 3])
    assert steps == pytest.approx(np.radians(50) / 198, rel=1e-3)


def test_without_gravity_every_window_has_mean_zero_and_the_same_motion() -> None:
    windows = nods()

    bare = windows.without_gravity()

    assert np.abs(bare.imu_NWA.mean(axis=1)).max() < 1e-5
    assert bare.imu_NWA.std(axis=1) == pytest.approx(windows.imu_NWA.std(axis=1), abs=1e-5)


def test_everybody_is_left_out_once_and_never_trained_on_then() -> None:
    windows = nods(num_people=7)

    out = []
    for train, test in folds(windows):
        assert not set(train.person_N) & set(test.person_N)
        assert len(train) + len(test) == len(windows)
        out.append(sorted(set(test.person_N.tolist())))

    assert out == [[0, 1, 2], [3, 4, 5], [6]]


def test_normalisation_is_of_the_people_trained_on_alone() -> None:
    windows = nods()
    train, test = folds(windows)[0]
    test.imu_NWA[:] = 1000.0  # whoever looks at these shows it

    student = fitted_student(train, seed=0, num_epochs=1)

    assert student.imu is not None
    assert student.imu.mean_u.numpy() == pytest.approx(train.imu_NWA.mean(axis=(0, 1)), abs=1e-4)
    assert student.imu.std_u.numpy() == pytest.approx(train.imu_NWA.std(axis=(0, 1)), rel=1e-4)


def test_what_is_said_of_a_window_does_not_depend_on_the_others_left_out_with_it() -> None:
    train, test = folds(nods())[0]
    some = test.of(np.arange(len(test)) < 5)

    assert student_says(train, some, 0, num_epochs=1).tolist() == (
        student_says(train, test, 0, num_epochs=1)[:5].tolist()
    )
    pytest.importorskip("sklearn", reason="needs scikit-learn, as in egoctl[dev]")
    assert forest_says(train, some, 0).tolist() == forest_says(train, test, 0)[:5].tolist()


def test_a_student_learns_to_tell_postures_of_new_people_apart() -> None:
    accuracy, macro_f1, per_fold = scores(
        nods(), lambda *given: student_says(*given, num_epochs=30), seed=0
    )

    assert accuracy >= 0.95
    assert macro_f1 >= 0.95
    assert len(per_fold) == 2


def test_a_forest_learns_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn, as in egoctl[dev]")
    monkeypatch.setattr(classyglass, "NUM_TREES", 10)

    assert scores(nods(), forest_says, seed=0)[0] >= 0.95


def test_features_are_thirteen_of_each_axis_and_of_both_lengths() -> None:
    windows = nods()

    found = features(windows.measured_NSA)

    assert found.shape == (72, 13 * 8)
    # Deviation of the nodding axis: a sine's, 0.71, and noise of 0.1.
    assert found[:, 8 + 4] == pytest.approx(0.714, abs=0.03)
    # Power between 4 and 8 Hz: the fast nod's.
    fast_N = found[:, 13 * 8 - 2 * 8 + 4]
    assert fast_N[windows.label_N == 1].min() > 0.8 > 0.2 > fast_N[windows.label_N == 0].max()


def test_macro_f1_weighs_classes_alike() -> None:
    said, label = np.array([0, 0, 0, 0, 1, 0]), np.array([0, 0, 0, 0, 1, 1])

    accuracy, macro_f1 = accuracy_and_macro_f1(said, label)

    assert accuracy == pytest.approx(5 / 6)
    # Class 0: precision 4/5, recall 1. Class 1: precision 1, recall 1/2.
    assert macro_f1 == pytest.approx((8 / 9 + 2 / 3) / 2)


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there; set EGOCTL_TEST_DATA")
def test_the_real_recordings_are_cut_as_told() -> None:
    windows = read_windows(FILE)

    assert len(windows) == 7354
    assert len(windows.label_names) == 11
    assert sorted(set(windows.person_N.tolist())) == list(range(1, 13))
    # Sit-to-stand is the commonest activity.
    assert np.bincount(windows.label_N).max() / 7354 == pytest.approx(0.125, abs=0.001)
    # Gravity is there, on every head.
    length_N = np.linalg.norm(windows.imu_NWA[..., :3].mean(axis=1), axis=1)
    assert np.median(length_N) == pytest.approx(9.8, abs=0.2)


def test_a_missing_file_is_answered_with_what_to_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        classyglass.main(["--file", "nowhere.npz"])

    assert "nowhere.npz is not there: pass --file, or set EGOCTL_TEST_DATA" in (
        capsys.readouterr().err
    )

"""The demo world: physics that add up, decoupling that decouples, rendering that can be resumed."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.pipeline.datasets.rendered.actions import CLASS_NAMES, Action, draw_action
from egoctl.pipeline.datasets.rendered.motion import (
    POSE_HZ,
    CouplingConfig,
    HeadPath,
    draw_participant,
    head_path,
    ideal_imu,
)
from egoctl.pipeline.datasets.rendered.render import render_world
from egoctl.pipeline.datasets.rendered.world import WorldConfig, simulate_segments, split_of
from egoctl.pipeline.errors import ManifestError

SMALL = WorldConfig(seed=3, num_participants=3, segments_per_participant=10, size_px=64)
STILL = CouplingConfig(
    gaze_gain=(0, 0), trunk_lean=(0, 0), arm_shake=(0, 0), free_share=0, glance_share=0
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    render_world(SMALL, out, workers=1)
    return out


def rows_of(world: Path) -> list[dict[str, str]]:
    with (world / "ANN.csv").open() as lines:
        return list(csv.DictReader(lines))


def imu_of(path: Path) -> NDArray[np.float64]:
    return np.loadtxt(path, delimiter=",", skiprows=1)


def frames_of(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    with av.open(path) as container:
        for frame in container.decode(video=0):
            assert frame.time is not None
            yield frame.time, np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def digests(world: Path) -> dict[str, str]:
    texts = [world / "ANN.csv", world / "world.json", *sorted((world / "imu").iterdir())]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in texts}
    for path in sorted((world / "videos").glob("[!.]*")):
        pixels = hashlib.sha256()
        for _, image in frames_of(path):
            pixels.update(image.tobytes())
        found[path.name] = pixels.hexdigest()
    return found


def a_head_path(coupling: CouplingConfig, *, verb: str = "open") -> tuple[HeadPath, Action]:
    action = draw_action(np.random.default_rng(1), verb, 0.0)
    person = draw_participant(np.random.default_rng(2), coupling, 1.0)
    time_s = np.arange(-4, 1905) / POSE_HZ
    return head_path(np.random.default_rng(3), time_s, action, person, coupling), action


def test_a_seed_gives_the_same_annotations_imu_and_pixels_with_any_number_of_workers(
    world: Path, tmp_path: Path
) -> None:
    render_world(SMALL, tmp_path, workers=2)

    assert digests(tmp_path) == digests(world)


def test_another_seed_gives_another_world(world: Path) -> None:
    other = WorldConfig(seed=4, num_participants=3, segments_per_participant=10, size_px=64)

    ours, theirs = simulate_segments(SMALL, [0]), simulate_segments(other, [0])

    assert not np.allclose(ours.imu_NWA, theirs.imu_NWA)


def test_a_video_holds_ten_segments_of_2_4_s_and_every_class_once(world: Path) -> None:
    rows = rows_of(world)[:10]

    assert [(row["start_s"], row["stop_s"]) for row in rows[:3]] == [
        ("0", "2.4"),
        ("2.4", "4.8"),
        ("4.8", "7.2"),
    ]
    assert {row["video"] for row in rows} == {"p00_s00.mp4"}
    assert {row["imu"] for row in rows} == {"p00_s00.csv"}
    assert sorted(row["label"] for row in rows) == sorted(CLASS_NAMES)


def test_frames_stand_at_whole_thirtieths_of_a_second(world: Path) -> None:
    times = [time for time, _ in frames_of(world / "videos" / "p00_s00.mp4")]

    assert times == [index / 30 for index in range(720)]


def test_the_imu_runs_at_198_hz_from_zero_through_all_cuts(world: Path) -> None:
    path = world / "imu" / "p00_s00.csv"

    imu = imu_of(path)

    assert path.read_text().splitlines()[0] == (
        "time_s,accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z"
    )
    assert len(imu) == 4752  # 24 s
    np.testing.assert_allclose(imu[:, 0], np.arange(4752) / 198, atol=1e-6)


def test_a_segments_samples_in_the_file_are_the_simulated_ones(world: Path) -> None:
    imu = imu_of(world / "imu" / "p01_s00.csv")
    # The third segment starts at 4.8 s, so its first sample is number ceil(950.4).
    simulated = simulate_segments(SMALL, [12]).imu_NWA[0]

    np.testing.assert_allclose(imu[951 : 951 + 475, 1:], simulated, rtol=1e-5, atol=1e-5)


def test_a_cut_leaves_no_shock_in_the_imu() -> None:
    config = WorldConfig(num_participants=2, segments_per_participant=10, own_motion=0)

    imu = simulate_segments(config).imu_NWA

    # A jump of the pose between two segments would show as hundreds of m/s^2 or rad/s.
    assert np.abs(np.linalg.norm(imu[:, [0, -1], :3], axis=2) - 9.81).max() < 1.5
    assert np.abs(imu[:, [0, -1], 3:]).max() < 0.5


def test_no_participant_is_in_two_splits(world: Path) -> None:
    splits = {(row["participant_id"], row["split"]) for row in rows_of(world)}

    assert splits == {("p00", "train"), ("p01", "val"), ("p02", "test")}


def test_ten_participants_split_six_one_three() -> None:
    splits = [split_of(WorldConfig(), person) for person in range(10)]

    assert splits == ["train"] * 6 + ["val"] + ["test"] * 3


def test_integrating_the_gyroscope_returns_the_attitude() -> None:
    path, _ = a_head_path(CouplingConfig())
    gyro_T3 = ideal_imu(path)[:, 3:]

    attitude = path.rotation()[0]
    # Midpoint rule: the rate at pose i carries pose i - 1 to pose i + 1.
    for rate in gyro_T3[::2]:
        attitude = attitude @ rotation_by(rate * 2 / POSE_HZ)

    last = 2 * len(gyro_T3[::2])
    error = attitude.T @ path.rotation()[last]
    angle = np.arccos(np.clip((np.trace(error) - 1) / 2, -1, 1))
    assert np.degrees(angle) < 0.01


def rotation_by(turn_3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rodrigues' formula, written out."""
    angle = float(np.linalg.norm(turn_3))
    x, y, z = turn_3 / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def test_a_head_at_rest_feels_gravity_and_no_turn() -> None:
    time_s = np.arange(100) / POSE_HZ
    path = HeadPath(
        time_s=time_s,
        position_T3=np.tile([0.1, 0.2, 1.5], (100, 1)),
        yaw_pitch_roll_T3=np.tile([0.3, -0.7, 0.1], (100, 1)),
    )

    imu = ideal_imu(path)

    np.testing.assert_allclose(np.linalg.norm(imu[:, :3], axis=1), 9.81, atol=1e-9)
    np.testing.assert_allclose(imu[:, 3:], 0, atol=1e-12)


def test_a_level_head_feels_gravity_along_minus_y_which_is_up() -> None:
    time_s = np.arange(3) / POSE_HZ
    level = HeadPath(
        time_s=time_s, position_T3=np.zeros((3, 3)), yaw_pitch_roll_T3=np.zeros((3, 3))
    )

    np.testing.assert_allclose(ideal_imu(level), [[0, -9.81, 0, 0, 0, 0]], atol=1e-12)


def test_a_mirrored_trajectory_flips_the_signs_of_the_imu() -> None:
    path, _ = a_head_path(CouplingConfig())
    mirrored = HeadPath(
        time_s=path.time_s,
        position_T3=path.position_T3 * [-1, 1, 1],
        yaw_pitch_roll_T3=path.yaw_pitch_roll_T3 * [-1, 1, -1],
    )

    flipped = ideal_imu(path) * [-1, 1, 1, 1, -1, -1]

    np.testing.assert_allclose(ideal_imu(mirrored), flipped, atol=1e-9)


def test_zero_coupling_gives_the_same_head_whatever_the_hand_does() -> None:
    zero = CouplingConfig.zero()
    opening, _ = a_head_path(zero)
    stir = draw_action(np.random.default_rng(9), "stir", 0.0)
    person = draw_participant(np.random.default_rng(2), zero, 1.0)
    stirring = head_path(np.random.default_rng(3), opening.time_s, stir, person, zero)

    # Where the head starts from depends on the place; how it moves must not depend on the hand.
    for one, other in (
        (opening.position_T3, stirring.position_T3),
        (opening.yaw_pitch_roll_T3, stirring.yaw_pitch_roll_T3),
    ):
        np.testing.assert_allclose(one - one[0], other - other[0], atol=1e-12)


def test_the_default_coupling_makes_the_head_answer_to_the_hand() -> None:
    coupled, _ = a_head_path(CouplingConfig(free_share=0))
    decoupled, _ = a_head_path(replace(CouplingConfig.zero(), free_share=0))

    turn = coupled.yaw_pitch_roll_T3 - decoupled.yaw_pitch_roll_T3

    assert np.degrees(np.ptp(turn[:, :2], axis=0)).max() > 2
    np.testing.assert_array_equal(turn[:, 2], 0)  # nothing rolls the head but itself


def test_hands_scenes_and_labels_are_the_same_in_the_control_world() -> None:
    control = WorldConfig(
        seed=3, num_participants=3, segments_per_participant=10, coupling=CouplingConfig.zero()
    )

    ours, theirs = simulate_segments(SMALL), simulate_segments(control)

    np.testing.assert_array_equal(ours.hand_N3, theirs.hand_N3)
    np.testing.assert_array_equal(ours.kind_N, theirs.kind_N)
    np.testing.assert_array_equal(ours.label_N, theirs.label_N)
    assert not np.allclose(ours.imu_NWA, theirs.imu_NWA, atol=0.1)


def test_without_coupling_or_own_motion_the_imu_is_noise_and_the_background_stands_still(
    tmp_path: Path,
) -> None:
    config = WorldConfig(
        num_participants=2, segments_per_participant=10, size_px=64, own_motion=0, coupling=STILL
    )
    render_world(config, tmp_path, workers=1)

    # White noise only: at most 0.10 m/s^2 and 0.015 rad/s by construction.
    imu = simulate_segments(config).imu_NWA
    assert imu[:, :, :3].std(axis=1).max() < 0.12
    assert imu[:, :, 3:].std(axis=1).max() < 0.018
    # Away from the hand and the handled thing the image does not change, up to the codec.
    images = np.stack([image for _, image in frames_of(tmp_path / "videos" / "p00_s00.mp4")])
    corner = images[:72, :10, :10].astype(float)
    assert np.abs(corner - corner[0]).mean() < 3


def test_the_background_moves_with_the_head(world: Path) -> None:
    images = np.stack([image for _, image in frames_of(world / "videos" / "p00_s00.mp4")])

    corner = images[:72, :10, :10].astype(float)

    assert np.abs(corner - corner[0]).mean() > 3


def test_a_verb_and_its_reverse_pass_through_the_same_middle() -> None:
    times = np.array([0.0, 1.2, 2.4])
    for verb, reverse in (("open", "close"), ("take", "put"), ("turn-on", "turn-off")):
        there = draw_action(np.random.default_rng(5), verb, 0.0)
        back = draw_action(np.random.default_rng(5), reverse, 0.0)
        mirror_times = 2 * there.mid_s - times

        np.testing.assert_allclose(there.progress(times), back.progress(mirror_times))
        np.testing.assert_allclose(there.focus_3(), back.focus_3())
        np.testing.assert_allclose(there.progress(np.array([0.0, 2.4])), [0, 1])


def test_actions_begin_and_end_inside_their_segment() -> None:
    for seed in range(200):
        action = draw_action(np.random.default_rng(seed), CLASS_NAMES[seed % 10], 0.0)

        assert action.mid_s - action.duration_s / 2 - action.approach_s > 0
        assert action.mid_s + action.duration_s / 2 < 2


def test_a_left_hinge_opening_and_a_right_hinge_closing_move_the_hand_the_same_way() -> None:
    seeds = range(400)
    drawn = [draw_action(np.random.default_rng(seed), "open", 0.0) for seed in seeds]
    left = next(action for action in drawn if action.kind == "cabinet" and action.side == -1)
    drawn = [draw_action(np.random.default_rng(seed), "close", 0.0) for seed in seeds]
    right = next(action for action in drawn if action.kind == "cabinet" and action.side == 1)

    for action in (left, right):
        half_s = action.duration_s / 2
        path = action.grip_path(np.array([action.mid_s - half_s, action.mid_s + half_s]))
        assert path[1, 0] - path[0, 0] < -0.1


def test_an_interrupted_world_is_finished_by_the_next_call(world: Path, tmp_path: Path) -> None:
    class PowerCut(RuntimeError):
        pass

    def cut_after_one(done: int, of: int) -> None:
        raise PowerCut

    with pytest.raises(PowerCut):
        render_world(SMALL, tmp_path, workers=1, on_progress=cut_after_one)
    assert not (tmp_path / "world.json").exists()
    assert not (tmp_path / "ANN.csv").exists()
    first = tmp_path / "videos" / "p00_s00.mp4"
    written_ns = first.stat().st_mtime_ns
    (tmp_path / "videos" / ".p01_s00.mp4.7.part").write_bytes(b"half a video")

    reached: list[tuple[int, int]] = []
    render_world(SMALL, tmp_path, workers=1, on_progress=lambda *at: reached.append(at))

    assert reached == [(2, 3), (3, 3)]
    assert first.stat().st_mtime_ns == written_ns
    assert digests(tmp_path) == digests(world)


def test_a_complete_world_is_left_alone(world: Path) -> None:
    reached: list[tuple[int, int]] = []

    ann_csv = render_world(SMALL, world, workers=1, on_progress=lambda *at: reached.append(at))

    assert ann_csv == world / "ANN.csv"
    assert reached == []


def test_a_folder_with_another_world_is_refused(world: Path) -> None:
    other = WorldConfig(seed=99, num_participants=3, segments_per_participant=10, size_px=64)

    with pytest.raises(ManifestError, match="another demo world.*empty folder"):
        render_world(other, world)


def test_the_settings_stand_beside_the_data(world: Path) -> None:
    settings = json.loads((world / "world.json").read_text())

    assert settings["version"] == "1"
    assert settings["config"]["seed"] == 3
    assert settings["config"]["coupling"]["gaze_gain"] == [0.2, 0.45]


def test_segments_that_cannot_be_balanced_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 10.*got 15"):
        WorldConfig(segments_per_participant=15)

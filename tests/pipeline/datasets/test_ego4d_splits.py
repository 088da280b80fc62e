"""Ego4D's divisions, by class and by video; its recipe and command; a download up to its clips."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.datasets.ego4d.hands_objects import Ego4dSource, build_ego4d
from egoctl.pipeline.datasets.health import check_manifest, table_lines
from egoctl.pipeline.datasets.random_split import split_by_group, split_per_class
from egoctl.pipeline.manifest import read_manifest
from egoctl.tests.worlds.ego4d_world import (
    CUT,
    PUT,
    Ego4dWorld,
    action,
    build,
    recorded,
    two_verbs,
    write_imu,
)
from egoctl.tests.worlds.extract_world import World, stored
from egoctl.tests.worlds.invoked import run
from egoctl.tests.worlds.places import MANIFESTS


@pytest.fixture
def world(tmp_path: Path) -> Ego4dWorld:
    return two_verbs(tmp_path / "ego4d")


# --- splits ---


def test_of_each_class_seventy_percent_train() -> None:
    sizes = {"a": 2, "b": 3, "c": 10, "d": 1000, "e": 1}
    class_of = {f"{name}{k}": name for name, size in sizes.items() for k in range(size)}

    split = split_per_class(class_of, seed=0)

    train = Counter(class_of[one] for one, side in split.items() if side == "train")
    assert train == {"a": 1, "b": 2, "c": 7, "d": 700, "e": 1}
    assert set(split.values()) == {"train", "test"}


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_file() -> None:
    class_of = {f"s{k}": "abc"[k % 3] for k in range(300)}
    backwards = dict(reversed(class_of.items()))

    split = split_per_class(class_of, seed=0)

    assert split_per_class(backwards, seed=0) == split
    moved = sum(split[one] != side for one, side in split_per_class(class_of, seed=1).items())
    assert 90 < moved < 160  # 42 % of 300, if the two are independent


def test_a_split_by_group_divides_no_group_and_is_near_seventy_percent() -> None:
    group_of = {f"v{k % 40}-{k}": f"v{k % 40}" for k in range(1000)}

    split = split_by_group(group_of, seed=3)

    sides = {(group, split[one]) for one, group in group_of.items()}
    assert len(sides) == 40
    assert Counter(split.values()) == {"train": 700, "test": 300}
    assert split_by_group(dict(reversed(group_of.items())), seed=3) == split


@pytest.mark.parametrize(("sizes", "num_train"), [([5], 1), ([5, 5], 1), ([1, 1, 1], 2)])
def test_of_several_groups_both_sides_get_one(sizes: list[int], num_train: int) -> None:
    group_of = {f"{v}-{k}": f"v{v}" for v, size in enumerate(sizes) for k in range(size)}

    split = split_by_group(group_of, seed=0)

    assert len({group_of[one] for one, side in split.items() if side == "train"}) == num_train


def test_the_papers_split_says_that_videos_are_on_both_sides(world: Ego4dWorld) -> None:
    found = build(world)

    assert Counter((one.label, one.split) for one in found.manifest.segments) == {
        (0, "train"): 3, (0, "test"): 1, (1, "train"): 3, (1, "test"): 1,
    }  # fmt: skip
    assert found.notes[-1].startswith(("1 of 2 videos", "2 of 2 videos"))
    assert "have segments in train and in test" in found.notes[-1]


def test_the_clean_split_keeps_every_video_on_one_side(world: Ego4dWorld) -> None:
    found = build(world, split_rule="by-video")

    sides = {(one.video_id, one.split) for one in found.manifest.segments}
    assert len(sides) == 2
    assert {split for _, split in sides} == {"train", "test"}
    assert found.notes[-1] == "no video is in both train (1 videos) and test (1 videos)."


def test_a_class_that_only_the_clean_splits_test_shows_is_counted(world: Ego4dWorld) -> None:
    world.annotate(
        {
            uid: [action(f"{uid}{k}", verb, 3, 9) for k in range(2)]
            for uid, verb in (("v1", CUT), ("v2", PUT))
        }
    )

    found = build(world, split_rule="by-video")

    assert found.notes[-1] == "1 classes have segments in test and none in train."


# --- the commands, and the whole way ---


def test_the_command_follows_the_recipe_and_tells_the_papers_counts(
    world: Ego4dWorld, tmp_path: Path
) -> None:
    out = tmp_path / "ego4d.parquet"

    code, said = run(
        *("manifest", "build", "ego4d", world.root, "--out", out),
        *("--recipe", MANIFESTS / "ego4d-egodistill.toml", "--stride", "0.5"),
    )

    assert code == 0
    assert read_manifest(out).segments == build(world).manifest.segments
    assert read_manifest(out).stride_s == 0.5
    lines = said.splitlines()
    assert lines[0].startswith("8 segments of 2 videos, 2 classes, splits: ")
    assert "segments: 8 (-99.9%); EgoDistill (arXiv:2301.02217) has 12,100" in lines
    assert "classes: 2 (-97.9%); EgoDistill (arXiv:2301.02217) has 94" in lines
    assert lines[-1] == "left out: 4 actions: video without IMU"


def test_options_overrule_the_recipe(world: Ego4dWorld, tmp_path: Path) -> None:
    out = tmp_path / "ego4d.parquet"

    code, said = run(
        *("manifest", "build", "ego4d", world.root, "--out", out, "--also-without-imu"),
        *("--recipe", MANIFESTS / "ego4d-egodistill.toml", "--split-rule", "by-video"),
    )

    assert code == 0
    assert {one.video_id for one in read_manifest(out).segments} == {"v1", "v2", "silent"}
    assert "no video is in both train" in said


def test_from_annotations_to_clips_with_every_fault_named(tmp_path: Path) -> None:
    # Six seconds of video; v1's IMU is sound but for a few rows, v2 has none from 3 s on,
    # v3's accelerometer repeats an axis, v4 is not downloaded.
    world = Ego4dWorld(root=tmp_path / "ego4d")
    world.annotate(
        {
            uid: [action(f"{uid}-early", CUT, 0, 62), action(f"{uid}-late", CUT, 105, 168)]
            for uid in ("v1", "v2", "v3", "v4")
        }
    )
    world.describe(dict.fromkeys(("v1", "v2", "v3", "v4"), True))
    sound, doubled = recorded(), recorded(component=1)
    sound[7][2] = "NULL"
    sound[400], sound[401] = sound[401], sound[400]
    for row in doubled:
        row[8] = row[7]
    write_imu(world.imu / "v1.csv", sound)
    write_imu(world.imu / "v2.csv", recorded(seconds=3))
    write_imu(world.imu / "v3.csv", doubled)
    for uid in ("v1", "v2", "v3"):
        world.film(uid)
    manifest = build_ego4d(
        Ego4dSource(root=world.root, window_s=2.0, stride_s=None), manifest_folder=tmp_path
    ).manifest

    health = check_manifest(manifest)
    report = World(folder=tmp_path).extract(manifest)

    assert {verdict.segment_id: verdict.code for verdict in health.segments} == {
        "v1-early": "ok", "v1-late": "ok",
        "v2-early": "ok", "v2-late": "imu_low_coverage",
        "v3-early": "imu_duplicate_axes", "v3-late": "imu_duplicate_axes",
        "v4-early": "video_missing", "v4-late": "video_missing",
    }  # fmt: skip
    table = "\n".join(table_lines(health))
    assert "1 rows without a canonical time, 1 rows earlier than the row before: sorted" in table
    assert "v3.csv (Ego4D); accelerometer y = z all through" in table
    rows = stored(World(folder=tmp_path).inputs_url)
    outcomes = {
        clip_id.partition("@")[0]: (row.outcome, row.imu_outcome) for clip_id, row in rows.items()
    }
    assert outcomes == {
        "v1-early": ("ok", "ok"), "v1-late": ("ok", "ok"),
        "v2-early": ("ok", "ok"), "v2-late": ("ok", "imu_low_coverage"),
        "v3-early": ("ok", "imu_duplicate_axes"), "v3-late": ("ok", "imu_duplicate_axes"),
        "v4-early": ("video_missing", "imu_missing"),
        "v4-late": ("video_missing", "imu_missing"),
    }  # fmt: skip
    (early,) = (row for clip_id, row in rows.items() if clip_id.startswith("v1-early"))
    # gyro_x rises by 0.2 rad/s in a second, and so does the stored window, less its mean.
    rise = np.diff(early.arrays["imu"][:, 3].astype(np.float64)) * 198
    np.testing.assert_allclose(rise, 0.2, atol=2e-3)
    assert health.num_bad == 5
    assert {failure.code: failure.count for failure in report.failures} == {
        "video_missing": 2, "imu_missing": 2, "imu_low_coverage": 1, "imu_duplicate_axes": 2,
    }  # fmt: skip

"""What `store diff` finds between two stores, and that it finds nothing between equal ones."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.recipe import FieldDifference
from egoctl.pipeline.sharing.closeness import Closeness
from egoctl.pipeline.sharing.diff import (
    MAX_ROWS_READ,
    OtherOutcome,
    difference,
    difference_lines,
)
from egoctl.tests.worlds.small_stores import (
    BAD_IMU,
    BAD_VIDEO,
    RECIPE,
    clip_row,
    clip_rows,
    small_store,
    values_of,
    with_times,
)

ROWS = clip_rows("abcdef")


@pytest.fixture
def left(tmp_path):
    return str(tmp_path / "left.store")


@pytest.fixture
def right(tmp_path):
    return str(tmp_path / "right.store")


def test_the_same_rows_in_other_parts_and_another_order_are_no_difference(left, right):
    small_store(left, ROWS, part_rows=4)
    small_store(right, ROWS[::-1], part_rows=2)

    found = difference(left, right)

    assert found.is_none
    assert found.num_common == 6
    assert list(difference_lines(found))[-1] == f"{left} and {right} hold the same: 6 clips."


def test_every_field_of_the_recipe_that_differs_is_named(left, right):
    small_store(left, ROWS)
    small_store(right, ROWS, recipe={**RECIPE, "stride_s": 0.1337, "crop_px": 224})

    found = difference(left, right)

    assert found.fields == (
        FieldDifference(field="recipe.crop_px", left="(none)", right="224"),
        FieldDifference(field="recipe.stride_s", left="0.1333", right="0.1337"),
    )
    assert not found.is_none
    assert f"recipe.stride_s: 0.1333 in {left}, 0.1337 in {right}" in difference_lines(found)


def test_other_class_names_and_another_kind_are_named(left, right):
    small_store(left, ROWS)
    small_store(right, ROWS, kind="inputs", class_names=("stir", "cut", "wash"))

    found = difference(left, right)

    assert [one.field for one in found.fields] == [
        "arrays.feature", "arrays.frames", "arrays.imu", "arrays.logits", "class_names", "kind",
    ]  # fmt: skip
    assert found.fields[0].left == '"float16 5"'
    assert found.arrays == ()


def test_clips_of_one_store_alone_are_named(left, right):
    small_store(left, ROWS[:4])
    small_store(right, ROWS[2:])

    found = difference(left, right)

    assert found.only_left == ("a@0.000-2.000", "b@0.000-2.000")
    assert found.only_right == ("e@0.000-2.000", "f@0.000-2.000")
    assert found.num_common == 2
    assert f"2 clips only in {left}: a@0.000-2.000, b@0.000-2.000" in difference_lines(found)


def test_clips_with_other_times_and_other_content_are_told_apart(left, right):
    small_store(left, ROWS[:3])
    moved = with_times(ROWS[0], 0.0004, 2.0004)
    small_store(right, [moved, clip_row("b", video="cut again"), ROWS[2]])

    found = difference(left, right)

    assert found.other_times == ("a@0.000-2.000",)
    assert found.other_content == ("b@0.000-2.000",)


def test_outcomes_that_differ_are_named_and_such_rows_are_not_compared(left, right):
    small_store(left, ROWS, failed={"b": BAD_VIDEO})
    small_store(right, ROWS, done=[0])

    found = difference(left, right)

    assert found.outcomes == tuple(
        OtherOutcome(clip_id=f"{name}@0.000-2.000", stream="outcome", left=was, right=now)
        for name, was, now in (("b", "past_end", "ok"), ("e", "ok", "not done"),
                               ("f", "ok", "not done"))
    )  # fmt: skip
    assert [(one.num_compared, one.clip_ids) for one in found.arrays] == [(3, ()), (3, ())]
    assert not found.is_none


def test_an_imu_outcome_has_no_say_in_whether_frames_are_compared(left, right):
    small_store(left, ROWS[:2], kind="inputs", failed_imu={"a": BAD_IMU})
    small_store(right, ROWS[:2], kind="inputs")

    found = difference(left, right)

    assert [one.stream for one in found.outcomes] == ["imu_outcome"]
    assert {one.array: one.num_compared for one in found.arrays} == {"frames": 2, "imu": 1}


def test_values_that_differ_are_counted_and_measured_like_the_slow_way(left, right):
    small_store(left, ROWS)
    small_store(right, ROWS, shifts={"b": 0.5, "e": -0.25})

    feature, logits = difference(left, right).arrays

    assert feature.clip_ids == logits.clip_ids == ("b@0.000-2.000", "e@0.000-2.000")
    assert (feature.num_compared, feature.closeness.num_rows) == (6, 2)
    cosines, gaps = [], []
    for name, shift in (("b", 0.5), ("e", -0.25)):
        was = values_of(f"{name}@0.000-2.000", 5).astype(np.float16).astype(np.float64)
        now = (values_of(f"{name}@0.000-2.000", 5) + np.float32(shift)).astype(np.float16)
        now = now.astype(np.float64)
        cosines.append(sum(was * now) / (sum(was**2) * sum(now**2)) ** 0.5)
        gaps.append(max(abs(was - now)))
    assert feature.closeness.max_abs == max(gaps)
    assert feature.closeness.min_cosine == pytest.approx(min(cosines), abs=1e-12)
    assert feature.closeness.mean_cosine == pytest.approx(sum(cosines) / 2, abs=1e-12)


def test_byte_strings_that_differ_are_counted(left, right):
    small_store(left, ROWS[:3], kind="inputs")
    store = small_store(right, ROWS[:3], kind="inputs", done=[])
    (part,) = store.parts()
    theirs = small_store(left, ROWS[:3], kind="inputs")
    rows = np.arange(3)
    frames = theirs.read("frames", rows)
    frames[1, 0] += b"!"
    receipt = theirs.receipt(0)
    arrays = {"frames": frames, "imu": theirs.read("imu", rows)}
    store.write_part(part, arrays, receipt.outcomes, seconds={}, versions={})
    store.close()

    frames_found, imu_found = difference(left, right).arrays

    assert (frames_found.clip_ids, frames_found.closeness) == (("b@0.000-2.000",), None)
    assert imu_found.clip_ids == ()


def test_without_differing_rows_no_shard_is_read(left, right, tmp_path):
    small_store(left, ROWS)
    small_store(right, ROWS)
    shard = tmp_path / "left.store/arrays/feature/c/0/0"
    shard.write_bytes(bytes(len(shard.read_bytes())))  # unreadable from now on

    assert difference(left, right).is_none


def test_a_damaged_shard_is_not_compared_as_if_it_were_data(left, right, tmp_path):
    small_store(left, ROWS)
    small_store(right, ROWS, shifts={"a": 1.0})
    shard = tmp_path / "left.store/arrays/feature/c/0/0"
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)

    with pytest.raises(StoreError, match=r"feature/c/0/0 was changed.*store verify .*left.store"):
        difference(left, right)


def test_only_so_many_rows_are_read(left, right, monkeypatch):
    monkeypatch.setattr("egoctl.pipeline.sharing.diff.MAX_ROWS_READ", 2)
    small_store(left, ROWS)
    small_store(right, ROWS, shifts=dict.fromkeys("abcdef", 1.0))

    feature, _ = difference(left, right).arrays

    assert (len(feature.clip_ids), feature.closeness.num_rows) == (6, 2)
    assert MAX_ROWS_READ == 1000


def test_closeness_knows_zero_vectors_and_equal_bits():
    rows = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)

    found = Closeness.of(rows, np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32))

    assert (found.num_equal, found.max_abs, found.min_cosine) == (2, 1.0, 0.0)
    assert found.mean_cosine == pytest.approx(2 / 3)


def test_closeness_of_rows_of_different_kinds_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\) float32 and \(1, 2\) float16"):
        Closeness.of(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float16))


def test_the_command_ends_with_1_where_stores_differ_also_in_a_bucket(s3, left):
    small_store(left, ROWS)
    same = f"{s3}/same.store"
    small_store(same, ROWS)
    other = f"{s3}/other.store"
    small_store(other, ROWS, shifts={"c": 0.125})

    equal = CliRunner().invoke(cli.app, ["store", "diff", left, same])
    differing = CliRunner().invoke(cli.app, ["store", "diff", left, other, "--json"])

    assert (equal.exit_code, differing.exit_code) == (0, 1)
    assert "hold the same: 6 clips" in equal.output
    found = json.loads(differing.output)
    assert found["arrays"][0]["clip_ids"] == ["c@0.000-2.000"]
    assert found["arrays"][0]["closeness"]["max_abs"] == pytest.approx(0.125, abs=2e-3)

"""`store merge`: every finished row once, unchanged, in larger parts, whenever it is stopped."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.sharing.diff import difference
from egoctl.pipeline.sharing.merge import merge
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.extract_world import store_files
from egoctl.tests.worlds.small_stores import (
    BAD_IMU,
    BAD_VIDEO,
    RECIPE,
    clip_row,
    clip_rows,
    small_store,
    values_of,
)


def names_of(store):
    return "".join(store.clips()["segment_id"])


@pytest.fixture
def a(tmp_path):
    return str(tmp_path / "a.store")


@pytest.fixture
def b(tmp_path):
    return str(tmp_path / "b.store")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.store")


def test_rows_stand_in_the_order_of_the_first_store_and_then_what_is_new(a, b, out):
    small_store(a, clip_rows("dbac"))
    small_store(b, clip_rows("fcea"))

    report = merge([a, b], out, part_rows=4)

    store = FeatureStore.open(out)
    assert names_of(store) == "dbacfe"
    assert (report.num_rows, report.num_repeated, report.num_parts_written) == (6, 2, 2)
    assert [part.num_rows for part in store.parts()] == [4, 2]


def test_every_value_is_what_it_was_and_any_zarr_reader_finds_it(a, b, out):
    small_store(a, clip_rows("abcdefg"), part_rows=3)
    small_store(b, clip_rows("ghijk"), part_rows=2)

    merge([a, b], out)

    wanted = np.stack([values_of(f"{name}@0.000-2.000", 5) for name in "abcdefghijk"])
    group = zarr.open_group(f"{out}/arrays", mode="r")
    np.testing.assert_array_equal(group["feature"][:], wanted.astype(np.float16))
    assert verify(out, is_deep=True).faults == ()
    assert FeatureStore.open(out).header.part_rows == 8192


@pytest.mark.parametrize("part_rows", [1, 2, 5, 16])
def test_cutting_a_store_anew_changes_no_row(a, out, part_rows):
    store = small_store(a, clip_rows("abcdefg"), part_rows=3, failed={"c": BAD_VIDEO})

    merge([a], out, part_rows=part_rows)

    assert difference(a, out).is_none
    row_n = np.arange(7)
    assert FeatureStore.open(out).digest_of(row_n) == store.digest_of(
        store.rows()["row"].to_numpy()
    )


def test_inputs_with_jpegs_and_failed_imu_are_merged(a, b, out):
    small_store(a, clip_rows("abc"), kind="inputs", failed_imu={"b": BAD_IMU})
    small_store(b, clip_rows("de"), kind="inputs")

    merge([a, b], out, part_rows=8)

    store = FeatureStore.open(out)
    frames = store.read("frames", np.arange(5))
    assert frames[4].tolist() == [b"e@0.000-2.000 0", b"e@0.000-2.000 1"]
    assert store.rows()["imu_outcome"].to_list() == ["ok", "imu_gap", "ok", "ok", "ok"]
    assert np.isnan(store.read("imu", np.array([1]))).all()
    assert verify(out).faults == ()


def test_statistics_are_those_of_all_rows(a, b, out):
    small_store(a, clip_rows("abcde"), failed={"b": BAD_VIDEO})
    small_store(b, clip_rows("fgh"))

    merge([a, b], out, part_rows=3)

    found = FeatureStore.open(out).statistics()["feature"]
    all_rows = np.stack([values_of(f"{name}@0.000-2.000", 5) for name in "acdefgh"])
    values = all_rows.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(found.mean_D, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std_D, values.std(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.num_nan_D, [1] * 5)
    np.testing.assert_array_equal(found.max_D, values.max(axis=0))


def test_of_a_clip_that_failed_in_one_store_the_data_of_the_other_is_kept(a, b, out):
    small_store(a, clip_rows("abc"), failed={"b": BAD_VIDEO, "c": BAD_VIDEO})
    small_store(b, clip_rows("xb"))

    report = merge([a, b], out)

    table = FeatureStore.open(out).rows()
    assert dict(table.select("segment_id", "outcome").iter_rows()) == {
        "a": "ok", "b": "ok", "c": "past_end", "x": "ok",
    }  # fmt: skip
    assert table["segment_id"].to_list() == ["a", "b", "c", "x"]
    assert table["reason"].to_list() == [None, None, "the video ends at 1.00 s", None]
    assert (report.num_failed, report.num_repeated) == (1, 1)


def test_of_inputs_those_with_an_imu_are_kept(a, b, out):
    small_store(a, clip_rows("ab"), kind="inputs", failed_imu={"a": BAD_IMU})
    small_store(b, clip_rows("ab"), kind="inputs", failed={"b": BAD_VIDEO})

    merge([a, b], out)

    found = FeatureStore.open(out).rows()
    assert found["outcome"].to_list() == found["imu_outcome"].to_list() == ["ok", "ok"]


def test_one_name_for_two_contents_is_refused_by_name(a, b, out):
    small_store(a, clip_rows("abc"))
    small_store(b, [clip_row("b", video="another"), clip_row("x")])

    with pytest.raises(StoreMismatchError, match="1 clips have data of different content.*b@0.000"):
        merge([a, b], out)
    assert not Path(out).exists()


def test_a_failed_clip_of_another_content_is_no_reason_to_refuse(a, b, out):
    small_store(a, [clip_row("a", video="cut short")], failed={"a": BAD_VIDEO})
    good = small_store(b, clip_rows("a"))

    merge([a, b], out)

    assert (
        FeatureStore.open(out).clips()["clip_key"].to_list() == good.clips()["clip_key"].to_list()
    )


def test_another_recipe_or_other_classes_are_refused_with_the_differences(a, b, out):
    small_store(a, clip_rows("a"))
    small_store(b, clip_rows("b"), recipe={**RECIPE, "stride_s": 0.2}, class_names=("x", "y", "z"))

    with pytest.raises(
        StoreMismatchError, match='class_names: .*"cut".*\n  recipe.stride_s: 0.1333 and 0.2\n'
    ):
        merge([a, b], out)


def test_unfinished_parts_are_left_out_and_counted(a, b, out):
    small_store(a, clip_rows("abcdef"), done=[0])
    small_store(b, clip_rows("ex"))

    report = merge([a, b], out)

    assert names_of(FeatureStore.open(out)) == "abcdex"
    assert report.num_unfinished == 2


def test_stores_without_a_finished_part_cannot_be_merged(a, out):
    small_store(a, clip_rows("ab"), done=[])

    with pytest.raises(StoreError, match="none of these stores has a finished part"):
        merge([a], out)


def test_receipts_share_out_the_seconds_and_count_rows_as_reused(a, b, out):
    small_store(a, clip_rows("abcd"), seconds=2.0)
    small_store(b, clip_rows("bxyz"), seconds=8.0)

    merge([a, b], out, part_rows=6)

    first, second = FeatureStore.open(out).valid_receipts().values()
    assert first.seconds == {"teacher": 4 * 0.5 + 2 * 2.0}
    assert second.seconds == {"teacher": 2.0}
    assert (first.num_reused, second.num_reused) == (6, 1)
    assert first.versions == {"egoctl": "test"}


def test_sources_are_not_touched(a, b, out):
    small_store(a, clip_rows("abc"))
    small_store(b, clip_rows("bcd"))
    before = store_files(a), store_files(b)

    merge([a, b], out)

    assert (store_files(a), store_files(b)) == before


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("fatal", [0, 1, 4, 5, 6, 9, 10, 12, 13, 15])
def test_killed_after_any_write_and_run_again_it_is_the_undisturbed_store(
    a, b, out, tmp_path, monkeypatch, fatal
):
    small_store(a, clip_rows("abcd"))
    small_store(b, clip_rows("efg"))
    merge([a, b], str(tmp_path / "calm.store"), part_rows=4)
    count = iter(range(1000))

    def spoiled(write):
        def put(self, name, content, *more, **options):
            done = write(self, name, content, *more, **options)
            if "claims" not in self.url and next(count) == fatal:
                raise Killed
            return done

        return put

    with monkeypatch.context() as patch:
        for method in ("put", "create"):
            write = getattr(Place, method)
            patch.setattr(Place, method, spoiled(write))
        with pytest.raises(Killed):
            merge([a, b], out, part_rows=4)
    shutil.rmtree(Path(out) / "claims", ignore_errors=True)  # its lease has run out

    merge([a, b], out, part_rows=4)

    calm, found = store_files(str(tmp_path / "calm.store")), store_files(out)
    assert found == calm


def test_run_again_it_writes_nothing(a, out):
    small_store(a, clip_rows("abcde"))
    merge([a], out, part_rows=2)
    before = {path: os.stat(path).st_mtime_ns for path in Path(out).rglob("*.json")}

    assert merge([a], out, part_rows=2).num_parts_written == 0
    assert {path: os.stat(path).st_mtime_ns for path in Path(out).rglob("*.json")} == before


def test_a_store_of_other_rows_is_not_gone_on_with(a, b, out):
    small_store(a, clip_rows("abc"))
    small_store(b, clip_rows("d"))
    merge([a], out)

    with pytest.raises(StoreMismatchError, match="holds other rows.*these have grown"):
        merge([a, b], out)


def test_a_source_is_no_place_for_the_result(a, b):
    small_store(a, clip_rows("abc"))
    small_store(b, clip_rows("d"))

    with pytest.raises(StoreError, match="is one of the stores to merge"):
        merge([a, b], f"{b}/")


def test_a_damaged_source_is_named_and_its_rows_are_not_published(a, b, out):
    small_store(a, clip_rows("abcd"))
    small_store(b, clip_rows("efgh"))
    shard = Path(b) / "arrays/logits/c/0/0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 4
    shard.write_bytes(content)

    with pytest.raises(StoreError, match=r"b.store/arrays/logits/c/0/0 was changed"):
        merge([a, b], out, part_rows=4)
    assert FeatureStore.open(out).rows()["outcome"].to_list() == ["ok"] * 4 + [None] * 4


def test_rows_that_their_receipt_does_not_vouch_for_are_not_published(a, out):
    store = small_store(a, clip_rows("ab"))
    receipt = store.receipt(0)
    forged = replace(receipt, rows_blake3={**receipt.rows_blake3, "logits": "0" * 32})
    store.place.put("parts/00000.json", forged.to_json())

    with pytest.raises(StoreError, match="logits/c/0/0 holds other rows than its receipt"):
        merge([a], out)


def test_the_command_merges_buckets_into_a_folder_and_back(s3, out):
    small_store(f"{s3}/a.store", clip_rows("abc"))
    small_store(f"{s3}/b.store", clip_rows("cd"), done=[])

    there = CliRunner().invoke(
        cli.app, ["store", "merge", f"{s3}/a.store", f"{s3}/b.store", "--out", out]
    )
    back = CliRunner().invoke(
        cli.app, ["store", "merge", out, "--out", f"{s3}/c.store", "--part-rows", "2"]
    )

    assert there.exit_code == back.exit_code == 0, there.output + back.output
    assert "3 rows, 1 parts written" in there.output
    assert "2 rows were left out: their parts are not done." in there.output
    assert difference(out, f"{s3}/c.store").is_none

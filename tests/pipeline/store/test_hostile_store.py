"""A store from a stranger: nothing outside it is touched, nothing absurd is allocated or run."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg
from blake3 import blake3

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store import FeatureStore, clips_file
from egoctl.pipeline.store import header as store_header
from egoctl.pipeline.store.column_stats import read_stats
from egoctl.pipeline.store.jpeg import jpeg_fault
from egoctl.tests.pipeline.store.test_store import ARRAYS, clip_rows, fill, header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = FeatureStore.create(str(tmp_path / "t.store"), header(), ARRAYS)
    store.append(clip_rows(6))
    for part in store.parts():
        fill(store, part)
    return tmp_path / "t.store"


def forge(folder: Path, change) -> None:
    """Change the header as somebody does who also knows how to digest it."""
    found = json.loads((folder / "store.json").read_text())
    del found["blake3"]
    change(found)
    text = json.dumps(found, sort_keys=True).encode()
    (folder / "store.json").write_text(json.dumps(found | {"blake3": blake3(text).hexdigest()}))


def footage(**changes):
    """What a header says of the teacher's footage, changed as told."""
    return {"dataset": "EPIC", "num_segments": 1, "spans_s": {"v": [[0.0, 1.0]]}} | changes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["arrays"]["feature"].update(row_shape=[10**12]), "more than the"),
        (lambda h: h["arrays"]["feature"].update(row_shape=[0]), "rows of shape"),
        (lambda h: h["arrays"]["feature"].update(row_shape=[1] * 9), "rows of shape"),
        (lambda h: h["arrays"]["feature"].update(row_shape="abc"), "no whole number"),
        (lambda h: h["arrays"]["feature"].update(chunk_rows=3), "do not fill parts"),
        (lambda h: h["arrays"]["feature"].update(chunk_rows=True), "no whole number"),
        (lambda h: h["arrays"]["feature"].update(dtype="object"), "dtype 'object'"),
        (lambda h: h["arrays"]["feature"].update(dtype="|O"), "dtype"),
        (lambda h: h["arrays"].update({"../../x": h["arrays"]["feature"]}), "may not be called"),
        (lambda h: h["arrays"].update({"/etc": h["arrays"]["feature"]}), "may not be called"),
        (
            lambda h: h["arrays"].update({f"a{i}": h["arrays"]["feature"] for i in range(99)}),
            "16 arrays at most",
        ),
        (lambda h: h.update(part_rows=10**9), "part_rows must be"),
        (lambda h: h.update(part_rows=-4), "part_rows must be"),
        (lambda h: h.update(kind="exe"), "of kind"),
        (lambda h: h.update(recipe=[]), "wrong type"),
        (lambda h: h.update(class_names=[1]), "wrong type"),
        (lambda h: h.update(format_version=99), "store format 99"),
        (lambda h: h.update(arrays=None), "not a store header"),
        (lambda h: h.pop("fingerprint"), "not a store header"),
        (lambda h: h["recipe"].update(stride_s=float("nan")), "not a store header"),
        (lambda h: h.update(trained_on=None), "not a record of footage"),
        (lambda h: h.update(trained_on=footage(dataset=["EPIC"])), "not a record of footage"),
        (lambda h: h.update(trained_on=footage(num_segments="9")), "not a record of footage"),
        (lambda h: h.update(trained_on=footage(num_segments=True)), "not a record of footage"),
        (lambda h: h.update(trained_on=footage(num_segments=-1)), "-1 segments are no count"),
        (lambda h: h.update(trained_on=footage(spans_s=[[0, 1]])), "not a record of footage"),
        (lambda h: h.update(trained_on=footage(spans_s={"v": "ab"})), "not a record of footage"),
        (lambda h: h.update(trained_on=footage(spans_s={"v": [[1]]})), "not a record of footage"),
        (
            lambda h: h.update(trained_on=footage(spans_s={"v": [[0, 10**400]]})),
            "not a record of footage",
        ),
        (
            lambda h: h.update(trained_on=footage(spans_s={"v": [[0, float("inf")]]})),
            "spans of video 'v' are out of order",
        ),
        (
            lambda h: h.update(trained_on=footage(spans_s={"v": [[3, 2]]})),
            "spans of video 'v' are out of order",
        ),
    ],
)
def test_a_header_that_asks_for_the_absurd_is_refused(folder, change, said):
    forge(folder, change)

    with pytest.raises(StoreError, match=said):
        FeatureStore.open(str(folder))


def test_json_that_nests_without_end_is_refused(folder):
    (folder / "store.json").write_text("[" * 200_000)

    with pytest.raises(StoreError, match="is not JSON"):
        FeatureStore.open(str(folder))


def test_a_huge_header_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("egoctl.pipeline.store.feature_store.MAX_HEADER_BYTES", 100)

    with pytest.raises(StoreError, match="100 at most. It was not read"):
        FeatureStore.open(str(folder))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "x\0", ""])
def test_no_name_leaves_its_place(tmp_path, name):
    place = Place(str(tmp_path / "p"))

    for act in (place.read, place.info, place.delete, lambda n: place.put(n, b"x")):
        with pytest.raises(StoreError, match="leaves its folder"):
            act(name)


def test_a_part_far_away_makes_no_array_of_that_size(folder):
    frame = pl.read_parquet(folder / "clips/00000.parquet")
    far = frame.with_columns(pl.col("part") + 10**12, pl.col("row") + 4 * 10**12)
    far.write_parquet(folder / "clips/00000.parquet")

    store = FeatureStore.open(str(folder))

    assert store.rows()["outcome"].to_list() == [None] * 6
    with pytest.raises(StoreError, match="has no rows"):
        store.read("feature", np.array([0]))


def test_a_clips_file_that_unpacks_to_absurdly_much_is_not_unpacked(folder, monkeypatch):
    monkeypatch.setattr(clips_file, "MAX_UNPACKED_BYTES", 100)

    with pytest.raises(StoreError, match="more than any clips file has. It was not read"):
        FeatureStore.open(str(folder)).rows()


def test_a_clips_file_of_other_types_is_refused(folder):
    pl.DataFrame({"row": ["x"]}).write_parquet(folder / "clips/00000.parquet")

    with pytest.raises(StoreError, match="other columns"):
        FeatureStore.open(str(folder)).rows()


def test_a_shard_larger_than_its_array_allows_is_not_read(folder):
    shard = folder / "arrays/feature/c/0/0"
    with shard.open("ab") as file:
        file.truncate(10**10)  # sparse: takes no disk

    with pytest.raises(StoreError, match="10,000,000,000 bytes; a shard of it has"):
        FeatureStore.open(str(folder)).read("feature", np.array([0]))


def test_statistics_that_unpack_to_more_than_they_have_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("feature.npy", b"\0" * 10_000_000)

    with pytest.raises(StoreError, match="unpacks to more than it has"):
        read_stats(buffer.getvalue(), "stats/00000.npz")


def test_statistics_with_objects_in_them_are_refused():
    buffer = io.BytesIO()
    np.savez(buffer, feature=np.array([{}], dtype=object))

    with pytest.raises(StoreError, match="holds no statistics"):
        read_stats(buffer.getvalue(), "stats/00000.npz")


def test_a_jpeg_whose_header_promises_a_wall_is_found_by_its_header():
    small = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    size_at = small.index(b"\xff\xc0") + 5
    bomb = small[:size_at] + b"\xf0\x00\xf0\x00" + small[size_at + 4 :]

    assert jpeg_fault(small, 16) is None
    assert jpeg_fault(bomb, None) == "61440 x 61440 pixels, more than 4096"
    assert jpeg_fault(small, 224) == "16 x 16 pixels, not 224 x 224"
    assert "no JPEG" in str(jpeg_fault(b"MZ", 224))


def test_the_formats_limits_are_not_met_by_ordinary_stores():
    assert store_header.MAX_PART_ROWS >= 512
    spec = store_header.ArraySpec(name="imu", dtype="float32", row_shape=(422, 6), chunk_rows=64)
    assert spec.row_bytes * 8192 < store_header.MAX_PART_BYTES

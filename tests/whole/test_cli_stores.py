"""What the commands say of a store: how full it is, what failed, what was changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import StoreRow
from egoctl.pipeline.store.header import ArraySpec, StoreHeader
from egoctl.tests.worlds.invoked import run


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Five rows in parts of four: the first part is done, with one failure."""
    store = FeatureStore.create(
        str(tmp_path / "t.store"),
        StoreHeader(
            kind="teacher",
            recipe={"teacher": "means", "weights_are_random": True},
            class_names=("cut", "stir"),
            part_rows=4,
        ),
        (ArraySpec(name="feature", dtype="float32", row_shape=(3,), chunk_rows=4),),
    )
    store.append(
        [
            StoreRow(
                clip_id=f"s{k}@0.000-2.000", segment_id=f"s{k}", video_id="v", start_s=0.0,
                stop_s=2.0, clip_key=f"key{k}",
            )
            for k in range(5)
        ]
    )  # fmt: skip
    failed = RowOutcome(code="decode_error", reason="frame 7 is damaged")
    store.write_part(
        store.parts()[0],
        {"feature": np.arange(12, dtype=np.float32).reshape(4, 3)},
        {"outcome": [RowOutcome(), failed, RowOutcome(), RowOutcome()]},
        seconds={"teacher": 0.5},
        versions={"egoctl": "test"},
    )
    return store


def test_store_info_tells_people_what_a_store_is_and_how_full(store: FeatureStore) -> None:
    code, said = run("store", "info", store.url)

    assert code == 0
    assert said.splitlines() == [
        f"{store.url}: teacher store, fingerprint {store.header.fingerprint[:16]}",
        "WARNING: the teacher's weights are RANDOM. These targets mean nothing.",
        "  teacher: means",
        "  weights_are_random: True",
        "array feature: 5x3 float32",
        "1 of 2 parts of 4 rows are done.",
        "outcome of 5 rows: ok 3, decode_error 1, not done 1",
    ]


def test_store_info_tells_scripts_the_same_and_every_failure(store: FeatureStore) -> None:
    code, said = run("store", "info", store.url, "--json")

    assert code == 0
    assert json.loads(said) == {
        "url": store.url,
        "format_version": 2,
        "blake3": json.loads(Path(store.url, "store.json").read_text())["blake3"],
        "kind": "teacher",
        "recipe": {"teacher": "means", "weights_are_random": True},
        "fingerprint": store.header.fingerprint,
        "class_names": ["cut", "stir"],
        "part_rows": 4,
        "arrays": {"feature": {"shape": [5, 3], "dtype": "float32"}},
        "num_parts": 2,
        "num_parts_left": 1,
        "num_rows": 5,
        "outcomes": {"outcome": {"ok": 3, "decode_error": 1, "not done": 1}},
        "failed": [
            {"clip_id": "s1@0.000-2.000", "code": "decode_error", "reason": "frame 7 is damaged"}
        ],
    }


def test_verify_finds_a_whole_store_whole(store: FeatureStore) -> None:
    (part,) = store.parts_to_do()
    last = {"feature": np.zeros((1, 3), np.float32)}
    store.write_part(part, last, {"outcome": [RowOutcome()]}, seconds={}, versions={})

    assert run("store", "verify", store.url) == (
        0, f"{store.url}: all 2 parts are as they were written.\n",
    )  # fmt: skip
    code, said = run("store", "verify", store.url, "--json")
    assert code == 0
    assert json.loads(said) == {"url": store.url, "num_parts": 2, "faults": [], "is_deep": False}


def test_verify_names_the_part_that_was_changed_and_the_one_not_done(store: FeatureStore) -> None:
    shard = Path(store.url, "arrays/feature/c/0/0")
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)

    code, said = run("store", "verify", store.url)

    assert code == 1
    assert said.splitlines() == [
        "part 0, arrays/feature/c/0/0: was changed: its digest differs (rows 0)",
        "part 1, parts/00001.json: not done: it has no receipt",
        f"1 faults. 'egoctl store verify {store.url} --repair' restores what a store has twice "
        "and takes damaged parts out of use; extract-teacher then redoes those.",
        "1 of 2 parts are not done: extract-teacher goes on there.",
    ]

    code, said = run("store", "verify", store.url, "--json")

    assert code == 1
    faults = [(one["part"], one["rows"], one["is_undone"]) for one in json.loads(said)["faults"]]
    assert faults == [(0, [0], False), (1, [], True)]

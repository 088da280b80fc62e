"""Extraction with teammates' rows: only what nobody has is read, and the store is the same."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.extraction.part_pass import run_parts
from egoctl.pipeline.extraction.part_queue import parts_left
from egoctl.pipeline.extraction.plan import clip_sources, filled_stores, store_rows
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.extraction.reused_rows import prefilled
from egoctl.pipeline.sharing.diff import difference
from egoctl.pipeline.sharing.reuse import ReusableRows
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    RUN,
    MeanTeacher,
    World,
    draw_colours,
    write_imu,
)

ROWS = [
    {"segment_id": "s1", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4},
    {"segment_id": "s2", "video": "b.mp4", "imu": "b.csv", "start_s": 0, "stop_s": 2.5},
]
NUM_CLIPS = 7
ALONE = replace(RUN, batch_size=1)
"""The same bits for a clip whatever stands beside it in a batch."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two videos, and the stores of an undisturbed run over them."""
    world = World(folder=tmp_path_factory.mktemp("world"))
    draw_colours(world.videos / "a.mp4", seconds=4)
    draw_colours(world.videos / "b.mp4", seconds=3, first=50)
    for name in "ab":
        write_imu(world.imu / f"{name}.csv", seconds=4)
    world.extract(world.manifest(ROWS), run=ALONE)
    return world


@pytest.fixture
def world(drawn, tmp_path):
    shutil.copytree(drawn.folder, tmp_path / "copy")
    return World(folder=tmp_path / "copy")


class Mine:
    """Empty stores of the same recipe, and extraction into them as extract does it."""

    def __init__(self, world: World) -> None:
        manifest = world.manifest(ROWS)
        self.sources = clip_sources(manifest)
        self.stores = {}
        rows = store_rows(self.sources, with_imu=True)
        for kind, url in (("teacher", world.teacher_url), ("inputs", world.inputs_url)):
            header = FeatureStore.open(url).header
            store = FeatureStore.create(f"{url}.mine", header, header.arrays)
            with_imu = kind == "inputs"
            store.append([row if with_imu else replace(row, imu_key=None) for row in rows])
            self.stores[kind] = store
        self.teacher = MeanTeacher()
        self.fills = filled_stores(
            manifest, {world.teacher_url: self.teacher}, world.inputs_url, CONFIG,
            precision="fp32", is_compiled=False,
        )  # fmt: skip
        self.num_read = 0
        self.said: list[str] = []

    def planned(self, *kinds):
        """The parts that are left in these stores."""
        views = {name: fill.view for name, fill in self.fills.items()}
        left = {kind: self.stores[kind].parts_to_do() for kind in kinds}
        return parts_left(self.sources, views, left)[0]

    def extract(self, reusable) -> None:
        planned = self.planned("teacher", "inputs")
        parts = [prefilled(part, reusable, say=self.said.append) for part in planned]
        self.num_read = sum(len(part.job.sources) for part in parts)
        report = ExtractReport(
            num_clips=NUM_CLIPS, num_done_before=0, num_foreign_parts=0, num_padded=0
        )
        run_parts(
            iter(parts),
            fills=self.fills,
            planned=self.stores,
            decoder="pyav",
            run=ALONE,
            report=report,
            write=self._write,
            num_clips=self.num_read,
        )
        for store in self.stores.values():
            store.close()

    def _write(self, part, buffer, seconds) -> None:
        for kind, of_kind in part.parts.items():
            self.stores[kind].write_part(
                of_kind, buffer.arrays[kind], buffer.outcomes[kind], seconds=seconds[kind],
                versions={}, num_reused=part.num_rows - len(part.job.sources),
            )  # fmt: skip


def reusable_of(world, **stores):
    """Their rows, by kind of store."""
    headers = {
        kind: FeatureStore.open(getattr(world, f"{kind}_url")).header
        for kind in ("teacher", "inputs")
    }
    return {kind: ReusableRows([url], headers[kind]) for kind, url in stores.items()}


def without_part(url: str, number: int) -> str:
    """The store, one of its parts not done."""
    (Path(url) / f"parts/{number:05d}.json").unlink()
    return url


def test_with_everything_found_no_video_is_opened_and_the_store_is_the_same(world):
    mine = Mine(world)
    shutil.rmtree(world.videos)

    mine.extract(reusable_of(world, teacher=world.teacher_url, inputs=world.inputs_url))

    assert (mine.num_read, mine.teacher.num_clips_seen) == (0, 0)
    for kind in ("teacher", "inputs"):
        url = mine.stores[kind].url
        assert difference(url, url.removesuffix(".mine")).is_none
        receipts = FeatureStore.open(url).valid_receipts().values()
        assert sum(receipt.num_reused for receipt in receipts) == NUM_CLIPS


def test_what_only_one_of_the_stores_finds_is_read_once_more(world):
    calm = {"teacher": f"{world.teacher_url}.calm", "inputs": f"{world.inputs_url}.calm"}
    shutil.copytree(world.teacher_url, calm["teacher"])
    shutil.copytree(world.inputs_url, calm["inputs"])
    without_part(world.inputs_url, 1)  # its clips 4, 5 and 6
    mine = Mine(world)

    mine.extract(reusable_of(world, teacher=world.teacher_url, inputs=world.inputs_url))

    assert mine.num_read == mine.teacher.num_clips_seen == 3
    assert all(difference(mine.stores[kind].url, calm[kind]).is_none for kind in calm)


def test_rows_are_copied_into_the_middle_of_a_part(world):
    other = FeatureStore.create(
        f"{world.teacher_url}.other",
        replace(FeatureStore.open(world.teacher_url).header, part_rows=1, arrays=()),
        FeatureStore.open(world.teacher_url).header.arrays,
    )
    theirs = FeatureStore.open(world.teacher_url)
    other.append(theirs.parts()[0].rows[1:3])
    for part in other.parts():
        values = {
            name: theirs.read(name, np.array([part.first_row + 1]))
            for name in ("feature", "logits")
        }
        outcomes = {"outcome": theirs.valid_receipts()[0].outcomes["outcome"][:1]}
        other.write_part(part, values, outcomes, seconds={}, versions={})
    other.close()
    mine = Mine(world)
    del mine.stores["inputs"]
    mine.stores["inputs"] = FeatureStore.open(world.inputs_url)  # nothing is left to do in it

    mine.extract(reusable_of(world, teacher=other.url))

    assert mine.num_read == NUM_CLIPS - 2
    assert difference(mine.stores["teacher"].url, world.teacher_url).is_none
    receipts = FeatureStore.open(mine.stores["teacher"].url).valid_receipts()
    assert [receipts[number].num_reused for number in (0, 1)] == [2, 0]


def test_where_one_store_has_nothing_to_copy_from_everything_is_read(world):
    mine = Mine(world)

    mine.extract(reusable_of(world, teacher=world.teacher_url))

    assert mine.num_read == NUM_CLIPS


def test_damage_in_a_teammates_store_costs_time_and_not_the_run(world):
    calm = f"{world.teacher_url}.calm"
    shutil.copytree(world.teacher_url, calm)
    shard = Path(world.teacher_url) / "arrays/feature/c/0/0"
    content = bytearray(shard.read_bytes())
    content[7] ^= 2
    shard.write_bytes(content)
    mine = Mine(world)

    mine.extract(reusable_of(world, teacher=world.teacher_url, inputs=world.inputs_url))

    assert mine.num_read == 4
    (said,) = mine.said
    assert said.startswith(f"not copied but read again, 4 clips: {world.teacher_url}/arrays/feat")
    assert difference(mine.stores["teacher"].url, calm).is_none


def test_clips_are_taken_off_a_part_once(world):
    mine = Mine(world)
    planned = mine.planned("teacher")
    reusable = reusable_of(world, teacher=world.teacher_url)
    once = prefilled(planned[0], reusable, say=mine.said.append)

    with pytest.raises(ValueError, match="taken off this part's job before"):
        prefilled(once, reusable, say=mine.said.append)

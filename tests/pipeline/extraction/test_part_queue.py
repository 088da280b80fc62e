"""Who gets which part: shares, claims of others, parts that others finish, die on or leave."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction import part_queue
from egoctl.pipeline.extraction.part_queue import PartQueue, PartShare, PlannedPart
from egoctl.pipeline.extraction.plan import clip_sources, inputs_view
from egoctl.pipeline.reading.clip_job import InputsView, TeacherView, teacher_view
from egoctl.pipeline.records import RowOutcome
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    WINDOW_S,
    MeanTeacher,
    World,
    draw_colours,
)
from egoctl.tests.worlds.small_stores import arrays_of, clip_row, small_store


@pytest.mark.parametrize("text", ["3", "3/", "/8", "a/8", "3/b", "-1/8", "1.5/3", "", "1/2/3"])
def test_parts_that_are_no_share_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(EgoctlError, match=r"--parts must be like 3/8 .*got '"):
        PartShare.from_text(text)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "0/0"])
def test_shares_are_counted_from_one(text: str) -> None:
    with pytest.raises(EgoctlError, match=f"from 1 to N, got {text}"):
        PartShare.from_text(text)


@given(total=st.integers(0, 60), count=st.integers(1, 20))
def test_shares_cover_every_part_exactly_once_and_keep_neighbours_together(
    total: int, count: int
) -> None:
    shares = [PartShare.from_text(f"{number}/{count}") for number in range(1, count + 1)]

    of_share = [[index for index in range(total) if one.has(index, total)] for one in shares]

    assert [index for indexes in of_share for index in indexes] == list(range(total))
    sizes = [len(indexes) for indexes in of_share]
    assert max(sizes) - min(sizes) <= 1


# --- queues over stores of twelve clips in six parts ---


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that twelve clips are cut from. Nothing here decodes it: files must be there."""
    folder = tmp_path_factory.mktemp("queue")
    draw_colours(folder / "videos" / "a.mp4", seconds=1)
    return folder


VIEWS: dict[str, TeacherView | InputsView] = {
    "teacher": teacher_view(MeanTeacher().spec, WINDOW_S),
    "inputs": inputs_view(CONFIG, WINDOW_S),
}


class Stores:
    """Both stores on disk, and queues of as many people as are asked for."""

    def __init__(self, folder: Path) -> None:
        world = World(folder=folder)
        row = {"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 7.5}
        self.sources = clip_sources(world.manifest([row], stride_s=0.5))
        self.urls = {"teacher": world.teacher_url, "inputs": world.inputs_url}
        self.opened: list[FeatureStore] = []
        self.said: list[str] = []
        rows = [clip_row(source.clip.clip_id) for source in self.sources.values()]
        rows = [
            replace(row, clip_id=clip_id) for row, clip_id in zip(rows, self.sources, strict=True)
        ]
        for kind, url in self.urls.items():
            small_store(url, rows, kind=kind, part_rows=2, done=())

    def open(self, kind: str, *, lease_s: float = 60) -> FeatureStore:
        self.opened.append(FeatureStore.open(self.urls[kind], lease_s=lease_s))
        return self.opened[-1]

    def queue(
        self,
        *,
        share: str = "1/1",
        waits: bool = False,
        say: Callable[[str], object] | None = None,
    ) -> PartQueue:
        """Of one more person."""
        return PartQueue(
            self.sources,
            VIEWS,
            {kind: self.open(kind) for kind in VIEWS},
            share=PartShare.from_text(share),
            waits=waits,
            say=say or self.said.append,
        )

    def part(self, store: FeatureStore, number: int) -> Part:
        return next(part for part in store.parts() if part.number == number)

    def finish(self, kind: str, number: int) -> None:
        """Somebody else does this part."""
        store = self.open(kind)
        write(store, self.part(store, number))
        store.close()


def write(store: FeatureStore, part: Part) -> None:
    streams = ("outcome", "imu_outcome") if store.header.kind == "inputs" else ("outcome",)
    outcomes = {stream: [RowOutcome()] * part.num_rows for stream in streams}
    values = arrays_of(store, part.clip_ids, outcomes)
    assert store.write_part(part, values, outcomes, seconds={}, versions={})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_queue, "POLL_S", 0.01)


@pytest.fixture
def stores(drawn: Path, tmp_path: Path) -> Iterator[Stores]:
    shutil.copytree(drawn, tmp_path / "world")
    stores = Stores(tmp_path / "world")
    yield stores
    for store in stores.opened:
        store.close()


def numbers(part: PlannedPart) -> tuple[int | None, int | None]:
    """Of the part in the teacher's store, and in the inputs store."""
    return (
        part.parts["teacher"].number if "teacher" in part.parts else None,
        part.parts["inputs"].number if "inputs" in part.parts else None,
    )


def both(*wanted: int) -> list[tuple[int | None, int | None]]:
    return [(number, number) for number in wanted]


def test_one_queue_hands_out_every_part_once(stores: Stores) -> None:
    assert sorted(map(numbers, stores.queue())) == both(0, 1, 2, 3, 4, 5)


def test_a_share_is_handed_out_in_order_and_nothing_else(stores: Stores) -> None:
    shares = [stores.queue(share=f"{number}/4") for number in (1, 2, 3, 4)]

    assert [list(map(numbers, queue)) for queue in shares] == [
        both(0, 1), both(2), both(3, 4), both(5),
    ]  # fmt: skip


def test_shares_stay_the_same_while_parts_are_being_finished(stores: Stores) -> None:
    for number in (0, 1, 2):
        stores.finish("teacher", number)
        stores.finish("inputs", number)

    assert list(map(numbers, stores.queue(share="1/2"))) == []
    assert list(map(numbers, stores.queue(share="2/2"))) == both(3, 4, 5)


def test_two_people_get_disjoint_parts_and_together_all(stores: Stores) -> None:
    first, second = iter(stores.queue()), iter(stores.queue())

    turns = [(next(first), next(second)) for _ in range(3)]

    got = [numbers(part) for turn in turns for part in turn]
    assert sorted(got) == both(0, 1, 2, 3, 4, 5)
    assert list(first) == list(second) == []


def test_a_part_that_somebody_finished_after_it_was_listed_is_not_handed_out(
    stores: Stores,
) -> None:
    parts = iter(stores.queue(share="1/1"))
    first = numbers(next(parts))
    others = [number for number in range(6) if (number, number) != first]
    for kind in ("teacher", "inputs"):
        stores.finish(kind, others[2])

    left = list(map(numbers, parts))

    assert sorted(left) == both(*(number for number in others if number != others[2]))
    # Its claims were given back: nobody has to wait for them.
    assert others[2] not in stores.open("teacher").claims.live()
    assert others[2] not in stores.open("inputs").claims.live()


def test_only_the_store_that_lacks_a_part_is_filled(stores: Stores) -> None:
    queue = stores.queue()
    planned, _ = queue.left()
    stores.finish("teacher", 1)

    # As it was listed before, and as it is listed now.
    then = queue.claimed(next(part for part in planned if numbers(part) == (1, 1)))
    assert then is not None
    assert (numbers(then), list(then.job.views)) == ((None, 1), ["inputs"])
    stores.opened[1].claims.release(1)
    assert sorted(map(numbers, stores.queue()), key=str) == sorted(
        [*both(0, 2, 3, 4, 5), (None, 1)], key=str
    )


def test_a_part_whose_other_store_somebody_is_filling_is_left_and_nothing_of_it_is_kept(
    stores: Stores,
) -> None:
    assert stores.open("inputs").claims.take(4)
    queue = stores.queue()

    got = sorted(map(numbers, queue))

    assert got == both(0, 1, 2, 3, 5)
    assert 4 not in stores.open("teacher").claims.live()


def test_a_part_that_this_process_is_at_work_on_is_not_given_to_another_of_its_threads(
    stores: Stores,
) -> None:
    queue = stores.queue()
    planned, _ = queue.left()

    assert queue.claimed(planned[0]) is not None
    assert queue.claimed(planned[0]) is None


def test_without_waiting_a_queue_ends_where_only_parts_of_others_are_left(stores: Stores) -> None:
    other = stores.open("teacher")
    for number in range(6):
        assert other.claims.take(number)

    assert list(stores.queue(waits=False)) == []
    assert stores.said == []


def test_who_waits_says_for_whom_and_does_what_they_leave(stores: Stores) -> None:
    other = stores.open("teacher")
    assert other.claims.take(2)
    assert other.claims.take(3)

    def let_go(text: str) -> None:
        stores.said.append(text)
        other.claims.release(2)
        other.claims.release(3)

    got = list(map(numbers, stores.queue(waits=True, say=let_go)))

    assert sorted(got[:4]) == both(0, 1, 4, 5)
    assert sorted(got[4:]) == both(2, 3)
    assert stores.said == [
        "Waiting for 2 parts that others are at work on: "
        f"{socket.gethostname()} (process {os.getpid()}). What they leave will be done here."
    ]


def test_who_waits_ends_when_the_others_have_finished(stores: Stores) -> None:
    other = stores.open("teacher")
    part = stores.part(other, 5)
    assert other.claims.take(5)
    stores.finish("inputs", 5)
    queue = stores.queue(waits=True, say=lambda text: write(other, part))

    got = list(map(numbers, queue))

    assert sorted(got) == both(0, 1, 2, 3, 4)


def test_who_waits_can_be_stopped(stores: Stores) -> None:
    for number in range(6):
        assert stores.open("teacher").claims.take(number)
    queue = stores.queue(waits=True, say=lambda text: queue.stop())

    assert list(queue) == []


def test_what_a_process_held_that_died_on_this_machine_is_handed_out_at_once(
    stores: Stores,
) -> None:
    script = f"""
        import os
        from egoctl.pipeline.store import FeatureStore

        store = FeatureStore.open({stores.urls["teacher"]!r}, lease_s=3600)
        assert all(store.claims.take(number) for number in range(6))
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)

    assert sorted(map(numbers, stores.queue())) == both(0, 1, 2, 3, 4, 5)


def test_what_a_silent_process_elsewhere_held_is_handed_out_when_its_lease_is_over(
    stores: Stores,
) -> None:
    # This process lives, so nothing but the age of its claims frees them.
    for number in (1, 4):
        assert stores.open("teacher", lease_s=3600).claims.take(number)
    hour_ago = time.time() - 3700
    os.utime(Path(stores.urls["teacher"], "claims/00004/0000.json"), (hour_ago, hour_ago))

    assert sorted(map(numbers, stores.queue())) == both(0, 2, 3, 4, 5)


def test_a_part_with_clips_of_another_manifest_is_counted_and_left(stores: Stores) -> None:
    del stores.sources[next(iter(stores.sources))]

    left, num_foreign = stores.queue().left()

    # The same part of both stores.
    assert (list(map(numbers, left)), num_foreign) == (both(1, 2, 3, 4, 5), 2)


def test_the_parts_that_this_process_is_still_at_work_on_are_not_waited_for(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_queue, "POLL_S", 3600)

    assert sorted(map(numbers, stores.queue(waits=True))) == both(0, 1, 2, 3, 4, 5)


def test_a_teachers_store_alone_is_enough(stores: Stores) -> None:
    queue = PartQueue(
        stores.sources, VIEWS, {"teacher": stores.open("teacher")},
        share=PartShare(), waits=True, say=stores.said.append,
    )  # fmt: skip

    assert sorted(map(numbers, queue), key=str) == [(number, None) for number in range(6)]

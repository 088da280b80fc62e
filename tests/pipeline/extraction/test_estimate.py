"""What --plan says, held against what extraction then does."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from egoctl.pipeline.errors import StoreMismatchError
from egoctl.pipeline.extraction.estimate import estimate, estimate_lines
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    RUN,
    MeanTeacher,
    World,
    store_files,
    stored,
)
from egoctl.tests.worlds.two_videos import (
    A_INNER,
    A_LONG,
    B_LONG,
    ROWS,
    copy_of,
    draw_two_videos,
)

EPIC = TrainedOn(dataset="EPIC-KITCHENS-100", num_segments=3, spans_s={"a": ((1.0, 4.0),)})
EGO4D = TrainedOn(dataset="Ego4D", num_segments=9, spans_s={"a": ((0.0, 90.0),)})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_two_videos(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def world(drawn: Path, tmp_path: Path) -> World:
    return copy_of(drawn, tmp_path / "world")


def planned_and_done(world: World, manifest: Manifest, **changes: object) -> ExtractReport:
    """Extraction, after checking that its plan counted the same and wrote nothing."""
    settings: dict[str, object] = {
        "store_url": world.teacher_url,
        "inputs_url": world.inputs_url,
        **changes,
    }
    before = store_files(str(world.folder))
    found = estimate(manifest, MeanTeacher(), config=CONFIG, run=RUN, **settings)  # type: ignore[arg-type]
    assert store_files(str(world.folder)) == before

    report = world.extract(manifest, **changes)

    assert found.num_clips == report.num_clips
    assert (found.num_clips_left, found.num_parts_left) == (report.num_read, report.num_parts)
    return report


def test_the_plan_of_new_stores_counts_what_extraction_then_does(world: World) -> None:
    assert planned_and_done(world, world.manifest(ROWS)).num_parts == 3


def test_the_plan_of_finished_stores_has_nothing_left(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)

    assert planned_and_done(world, manifest).num_read == 0


def test_the_plan_goes_on_where_a_run_was_stopped(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    (Path(world.inputs_url) / "parts" / "00001.json").unlink()

    assert planned_and_done(world, manifest).num_read == 4


def test_the_plan_of_a_larger_manifest_counts_the_new_clips(world: World) -> None:
    world.extract(world.manifest([A_LONG]))

    assert planned_and_done(world, world.manifest(ROWS)).num_read == 6


def test_the_plan_of_a_second_teacher_counts_targets_alone(world: World) -> None:
    manifest = world.manifest(ROWS)
    world.extract(manifest)
    url = f"{world.folder}/other.store"

    found = estimate(
        manifest,
        MeanTeacher(),
        store_url=url,
        inputs_url=world.inputs_url,
        config=CONFIG,
        run=RUN,
    )

    assert (found.teacher_bytes, found.inputs_bytes) == (11 * (48 + 5) * 4, 0)
    assert planned_and_done(world, manifest, store_url=url).num_read == 11


def test_the_plan_of_stores_that_grew_apart_counts_every_reading(world: World) -> None:
    world.extract(world.manifest([A_INNER]), teacher=None, store_url=None)

    planned_and_done(world, world.manifest([A_LONG, A_INNER]))


def test_the_plan_counts_a_broken_video_that_was_replaced(world: World, drawn: Path) -> None:
    manifest = world.manifest([A_LONG, B_LONG])
    (world.videos / "b.mp4").write_text("not yet copied")
    world.extract(manifest)
    shutil.copy(drawn / "videos" / "b.mp4", world.videos)

    assert planned_and_done(world, manifest).num_read == 3


def test_the_plan_refuses_another_recipe_as_extraction_does(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest)

    with pytest.raises(StoreMismatchError, match="dtype"):
        estimate(
            manifest,
            MeanTeacher(),
            store_url=world.teacher_url,
            inputs_url=None,
            config=replace(CONFIG, dtype="float16"),
            run=RUN,
        )


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (None, "does not say what its teacher was fitted to"),
        (EGO4D, "says that its teacher was fitted to 9 segments of Ego4D: other spans"),
    ],
)
def test_the_plan_refuses_a_store_that_tells_of_other_footage_as_extraction_does(
    world: World, told: TrainedOn | None, says: str
) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest, trained_on=told)

    with pytest.raises(StoreMismatchError, match=f"{says}.*header never changes.*--trained-on"):
        planned_and_done(world, manifest, trained_on=EPIC)


def test_the_plan_takes_a_store_that_tells_what_is_said(world: World) -> None:
    manifest = world.manifest([B_LONG])
    world.extract(manifest, trained_on=EPIC)

    assert planned_and_done(world, manifest, trained_on=EPIC).num_read == 0


def test_the_plan_tells_bytes_hours_and_speeds(world: World) -> None:
    manifest = world.manifest([A_LONG, A_INNER])

    found = estimate(
        manifest,
        MeanTeacher(),
        store_url=world.teacher_url,
        inputs_url=world.inputs_url,
        config=CONFIG,
        run=RUN,
    )

    # 7 windows cover the 4 s of the one video
    assert found.num_videos == 1
    assert found.video_hours == pytest.approx(4 / 3600)
    assert found.teacher_bytes == 7 * (48 + 5) * 4
    assert found.probe_clips == 7
    world.extract(manifest)
    jpegs = [
        len(jpeg) for row in stored(world.inputs_url).values() for jpeg in row.arrays["frames"]
    ]
    assert found.inputs_bytes == pytest.approx(7 * 397 * 6 * 4 + sum(jpegs) + 21 * 8, abs=1)
    assert found.read_clips_per_s and found.teacher_clips_per_s
    slower = min(found.read_clips_per_s, found.teacher_clips_per_s)
    assert found.seconds_left == pytest.approx(7 / slower)
    assert "7 clips in 2 parts are left to do." in "\n".join(estimate_lines(found))


def test_the_plan_of_videos_that_cannot_be_read_says_so(world: World) -> None:
    (world.videos / "b.mp4").write_bytes(b"")

    found = estimate(
        world.manifest([B_LONG]),
        MeanTeacher(),
        store_url=world.teacher_url,
        inputs_url=None,
        config=CONFIG,
        run=RUN,
    )

    assert (found.probe_clips, found.seconds_left, found.num_clips_left) == (0, None, 3)
    assert "None of the first 8 clips could be read" in "\n".join(estimate_lines(found))

"""Data for looking at a trained run, checked to be those it was trained on."""

from dataclasses import dataclass, replace

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.run_place import RunPlace
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.sources import Sources, open_sources, read_heldout_clips
from egoctl.student.runs.run_record import RunRecord, refuse_other_recipes
from egoctl.student.runs.trained_clips import refuse_other_rows
from egoctl.student.settings.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where to read instead of where the run was trained; None: there. Paths or URLs."""

    manifest: str | None = None
    inputs: str | None = None
    teacher: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """One split, as the run can use it, and where it comes from."""

    config: TrainConfig
    """The run's, with the places that the data were read from."""
    sources: Sources
    clips: ClipSet


def open_run_data(run: RunPlace, record: RunRecord, split: str, *, places: Places) -> RunData:
    """Every clip of the split that the run can use, with targets where there are some.

    Raises:
        EgoctlError: if there is no such split, or nothing in it can be used.
        StoreMismatchError: if manifest or stores are not those that the run was trained on.
    """
    config = replace(
        record.train,
        manifest=places.manifest or record.train.manifest,
        inputs=places.inputs or record.train.inputs,
        teacher=places.teacher or record.train.teacher,
    )
    sources = open_sources(config)
    refuse_other_recipes(run, record, sources, manifest=config.manifest)
    refuse_other_rows(run, record, sources)
    clips = read_heldout_clips(config, sources, split, with_targets=True)
    if not len(clips):
        raise EgoctlError(
            f"{run.url}: split {split!r} has no usable clip "
            f"(left out: {clips.left_out_by_reason()})."
        )
    return RunData(config=config, sources=sources, clips=clips)

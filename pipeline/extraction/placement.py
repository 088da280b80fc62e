"""What `extract-teacher` does with a job: plan it, run it here, on several devices, or on Ray."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from egoctl.pipeline.errors import EgoctlError, ManifestError
from egoctl.pipeline.extraction.estimate import estimate, estimate_lines
from egoctl.pipeline.extraction.job import (
    ExtractJob,
    devices_from_text,
    extract_on_devices,
    merged_report,
)
from egoctl.pipeline.extraction.report import extract_lines
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.trained_on import TrainedOn


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a job runs."""

    devices: str | None
    engine: str
    address: str | None
    num_workers: int | None

    def __post_init__(self) -> None:
        if self.engine == "ray" and self.devices is not None:
            raise EgoctlError("--devices and --engine ray exclude each other; give one of them.")
        if self.engine != "ray" and (self.address is not None or self.num_workers is not None):
            raise EgoctlError("--address and --workers belong to --engine ray. Add it.")


def footage_named(text: str) -> TrainedOn:
    """What --trained-on MANIFEST or MANIFEST#SPLIT means: all its segments, or those of a split.

    Raises:
        EgoctlError: if there is no such manifest, or it has no such segments.
    """
    path, has_split, split = text.rpartition("#")
    manifest = read_manifest(path if has_split else text)
    try:
        segments = manifest.split(split) if has_split else manifest.segments
    except ManifestError as error:
        raise EgoctlError(f"--trained-on {text}: {error}") from error
    return TrainedOn.of_segments(segments, dataset=manifest.dataset_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """What an extraction found out or did: a record, the same as lines, and whether all is well."""

    record: object
    lines: Iterable[str]
    is_clean: bool


def run_extraction(
    job: ExtractJob, placement: Placement, *, only_plan: bool, warn: Callable[[str], object]
) -> Extracted:
    """Plan the job or do it, where it was placed; warn gets lines for people."""
    if placement.devices is not None and not only_plan:
        return _on_devices(job, devices_from_text(placement.devices), warn)
    teachers = job.load_teachers()
    for target in job.targets:
        weights = teachers[target.url].weights
        if weights.is_random:
            warn(f"WARNING: {target.teacher} has RANDOM weights: its targets mean nothing.")
        if weights.misfits:
            of_which = f" of {target.teacher}" if len(job.targets) > 1 else ""
            warn(f"WARNING: weights{of_which} loaded in part: {weights.misfits}.")
    if only_plan:
        plan = estimate(
            job.manifest,
            teachers,
            inputs_url=job.inputs,
            config=job.config,
            run=job.run,
            trained_on=job.trained_on,
        )
        return Extracted(record=plan, lines=estimate_lines(plan), is_clean=True)
    if placement.engine == "ray":
        from egoctl.pipeline.extraction.ray_cluster import RayConfig, extract_on_ray, ray_lines

        config = RayConfig(address=placement.address, num_workers=placement.num_workers)
        found = extract_on_ray(job, teachers, config)
        is_clean = not (found.extract.failures or found.given_up)
        return Extracted(record=found, lines=ray_lines(found), is_clean=is_clean)
    report = job.extract(teachers)
    return Extracted(record=report, lines=extract_lines(report), is_clean=not report.failures)


def _on_devices(job: ExtractJob, devices: list[str], warn: Callable[[str], object]) -> Extracted:
    results = extract_on_devices(job, devices, say=warn)
    report = merged_report(results)
    is_clean = not report.failures and all(result.problem is None for result in results)
    return Extracted(record=report, lines=extract_lines(report), is_clean=is_clean)

"""Three light teachers in one pass over densely cut footage, against a run for each.

What one pass saves is decoding, so the share that decoding alone has of a single run is printed,
too: where it is a third, three runs decode for two thirds of a run's time for nothing.
"""

import tempfile
from collections.abc import Sequence

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.extraction.extract import extract
from egoctl.pipeline.extraction.part_pass import PassConfig
from egoctl.pipeline.extraction.plan import StoreConfig, clip_sources
from egoctl.pipeline.reading.clip_job import Job, TeacherView, teacher_view
from egoctl.pipeline.reading.clip_reader import ClipReader
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates, seconds_ratios
from egoctl.tests.benchmarks.footage import footage_manifest

TEACHERS = ("x3d_xs", "timm:mobilenetv3_small_100", "timm:mobilenetv3_small_075")
BATCH = 8
STRIDE_S = 0.5
SECONDS = 40.0
"""Of each of the two videos."""
AIM = "<= 0.75"
STORES = StoreConfig()


def run(setup: Setup) -> list[Figure]:
    """Wall time of one pass over the sum of single runs, decoding's share, and all speeds."""
    keep_freed_memory(setup.device)
    manifest = footage_manifest(setup, stride_s=STRIDE_S, seconds=SECONDS)
    teachers = {
        name: load_teacher(name, weights="random:0", device=setup.device) for name in TEACHERS
    }
    config = PassConfig(device=setup.device, batch_size=BATCH, precision="fp32")
    sources = list(clip_sources(manifest).values())
    made: dict[tuple[str, ...], str] = {}

    def extracted(*names: str) -> float:
        folder = tempfile.mkdtemp(dir=setup.folder)
        report = extract(
            manifest,
            {f"{folder}/{TEACHERS.index(name)}.store": teachers[name] for name in names},
            inputs_url=None,
            config=STORES,
            run=config,
        )
        assert not report.failures
        made[names] = folder
        return report.num_read

    def decoded(view: TeacherView) -> float:
        job = Job(number=0, sources=sources, views={"teacher": view})
        return sum(1 for _ in ClipReader([job], queue_size=4 * BATCH))

    views = {name: teacher_view(teachers[name].spec, manifest.window_s) for name in TEACHERS}
    # The first run of a shape also chooses kernels and takes memory.
    extracted(*TEACHERS)
    found = alternate(
        {
            "all in one pass": lambda: extracted(*TEACHERS),
            **{name: lambda name=name: extracted(name) for name in TEACHERS},  # type: ignore[misc]
            **{
                f"decode only, for {name}": lambda name=name: decoded(views[name])  # type: ignore[misc]
                for name in TEACHERS
            },
        },
        repeats=setup.repeats,
    )
    for name in TEACHERS:
        _check_equal(made[TEACHERS], made[(name,)], TEACHERS.index(name))
    single = [found[name] for name in TEACHERS]
    reading = [found[f"decode only, for {name}"] for name in TEACHERS]
    shares = tuple(
        sum(sample.seconds for sample in decoding) / sum(sample.seconds for sample in runs)
        for decoding, runs in zip(
            zip(*reading, strict=True), zip(*single, strict=True), strict=True
        )
    )
    return [
        Figure(
            benchmark="several_teachers",
            name=f"{len(sources)} windows every {STRIDE_S} s, {', '.join(TEACHERS)}: one pass / "
            "the sum of three runs",
            unit="ratio of seconds",
            values=seconds_ratios(found["all in one pass"], *single),
            aim=AIM,
        ),
        Figure(
            benchmark="several_teachers",
            name="decode only / run of a single teacher, over the three",
            unit="ratio of seconds",
            values=shares,
        ),
        *(
            Figure(benchmark="several_teachers", name=side, unit="clips/s", values=rates(samples))
            for side, samples in found.items()
        ),
    ]


def _check_equal(together: str, alone: str, number: int) -> None:
    """What one pass stored has the bits of a run alone, or the ratio would mean nothing."""
    stores = [FeatureStore.open(f"{folder}/{number}.store") for folder in (together, alone)]
    rows = stores[0].rows()["row"].to_numpy()
    values: list[Sequence[bytes]] = [
        [store.read(name, rows).tobytes() for name in store.array_specs()] for store in stores
    ]
    assert values[0] == values[1], f"teacher {number} differs"

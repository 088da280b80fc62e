"""An extraction as a record, so that it can run here, in other processes, or on other machines."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType

import torch

from egoctl.pipeline.devices import pick_device
from egoctl.pipeline.errors import EgoctlError, VideoError
from egoctl.pipeline.extraction.extract import Extraction, WorkConfig, extract
from egoctl.pipeline.extraction.part_pass import PassConfig
from egoctl.pipeline.extraction.plan import StoreConfig, inputs_view, refuse_shared_places
from egoctl.pipeline.extraction.report import ExtractReport
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import teacher_view
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.teachers.protocol import Teacher
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.pipeline.video.decoder_choice import (
    MAX_VIDEOS,
    DecoderName,
    choose,
    decoder_in,
    decoder_named,
)
from egoctl.pipeline.video.pyav_clips import probe_video


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetStore:
    """A teacher to load, and the store of its targets."""

    teacher: str
    weights: str
    url: str
    trained_on: TrainedOn | None = None
    """What the weights were fitted to, where they do not record it themselves."""


def target_stores(
    teachers: Sequence[str],
    urls: Sequence[str],
    weights: Sequence[str],
    trained_on: Sequence[TrainedOn],
) -> tuple[TargetStore, ...]:
    """Options that may be repeated, paired in their order; one of the last two is for all.

    Raises:
        EgoctlError: if their numbers do not match, or two teachers are to fill one store.
    """
    count = len(teachers)
    if len(urls) != count:
        raise EgoctlError(
            f"every --teacher needs a --store of its own, in the same order: got {count} and "
            f"{len(urls)}."
        )
    for option, given in (("--weights", weights), ("--trained-on", trained_on)):
        if len(given) not in (1, count) and given:
            raise EgoctlError(
                f"{option} is given once for all teachers or once for each of the {count}, in "
                f"their order; got {len(given)}."
            )
    refuse_shared_places(urls)
    footage: Sequence[TrainedOn | None] = trained_on or [None]
    return tuple(
        TargetStore(
            teacher=teacher,
            weights=weights[number % len(weights)],
            url=url,
            trained_on=footage[number % len(footage)],
        )
        for number, (teacher, url) in enumerate(zip(teachers, urls, strict=True))
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractJob:
    """All that `egoctl extract-teacher` was asked for."""

    manifest: Manifest
    targets: tuple[TargetStore, ...]
    inputs: str | None
    config: StoreConfig
    run: PassConfig
    work: WorkConfig

    def on(self, device: str) -> "ExtractJob":
        """The same on another device.

        Raises:
            EgoctlError: if there is no such device here.
        """
        return replace(self, run=replace(self.run, device=pick_device(device)))

    def decoded_with(self, decoder: str, *, say: Callable[[str], object]) -> "ExtractJob":
        """The same with the decoder of that name; 'auto' is settled, and say gets the reason.

        Raises:
            EgoctlError: if there is no such decoder, or it cannot be used here.
        """
        name = self._settled_decoder(say) if decoder == "auto" else decoder_named(decoder)
        return replace(self, config=replace(self.config, decoder=name))

    def _settled_decoder(self, say: Callable[[str], object]) -> DecoderName:
        # A store that is there has been filled with one, whatever would be faster now.
        for url in (*(target.url for target in self.targets), self.inputs):
            if url is not None and FeatureStore.exists(url):
                name = decoder_in(FeatureStore.open(url).header.recipe)
                say(f"decoder {name}: {url} was begun with it")
                return decoder_named(name)
        specs = [lineup.teacher_spec(target.teacher) for target in self.targets]
        views = [teacher_view(spec, self.manifest.window_s).frame for spec in specs]
        if self.inputs is not None:
            views.append(inputs_view(self.config, self.manifest.window_s).frame)
        choice = choose(_first_videos(self.manifest), list(dict.fromkeys(views)))
        say(choice.sentence)
        return choice.name

    def load_teachers(self) -> dict[str, Teacher]:
        """The teachers asked for, by the URL of the store that each fills.

        Raises:
            EgoctlError: if one cannot be had, or its weights record that it saw other footage.
        """
        return {target.url: self.load_teacher(target) for target in self.targets}

    def load_teacher(self, target: TargetStore) -> Teacher:
        """The teacher of one store.

        Raises:
            EgoctlError: as load_teachers.
        """
        teacher = lineup.load_teacher(
            target.teacher, weights=target.weights, device=self.run.device
        )
        given, recorded = target.trained_on, teacher.weights.trained_on
        if given is not None and recorded is not None and given != recorded:
            raise EgoctlError(
                f"--trained-on says that {target.teacher} was {given.sentence()}, but its weights "
                f"say that it was {recorded.sentence()}: other spans. Leave out --trained-on."
            )
        return teacher

    @property
    def trained_on(self) -> dict[str, TrainedOn]:
        """What the teachers have seen, where it was given, by the URL of their stores."""
        return {t.url: t.trained_on for t in self.targets if t.trained_on is not None}

    def extraction(self, teachers: Mapping[str, Teacher]) -> Extraction:
        """To be closed."""
        return Extraction(
            self.manifest,
            teachers,
            inputs_url=self.inputs,
            config=self.config,
            run=self.run,
            lease_s=self.work.lease_s,
            reuse=self.work.reuse,
            trained_on=self.trained_on,
        )

    def extract(self, teachers: Mapping[str, Teacher] | None = None) -> ExtractReport:
        """Do it here; loaded teachers spare loading them."""
        return extract(
            self.manifest,
            teachers or self.load_teachers(),
            inputs_url=self.inputs,
            config=self.config,
            run=self.run,
            work=self.work,
            trained_on=self.trained_on,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceResult:
    """What became of the process of one device."""

    device: str
    report: ExtractReport | None
    problem: str | None
    """Why there is no report."""


def devices_from_text(text: str) -> list[str]:
    """'all' GPUs, or names such as 'cuda:0,cuda:2' (also '0,2', and 'cpu,cpu').

    Raises:
        EgoctlError: if there is no such device here.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    names = [f"cuda:{name}" if name.isdecimal() else name for name in names]
    if not names:
        raise EgoctlError("--devices must name devices, such as all, 0,1 or cpu,cpu.")
    for name in names:
        pick_device(name)
    return names


def extract_on_devices(
    job: ExtractJob, devices: Sequence[str], *, say: Callable[[str], object]
) -> list[DeviceResult]:
    """One process per device; they claim parts from one another. Those of one that dies are redone.

    Ctrl-C ends them all: they give back their claims and say nothing.
    """
    context = multiprocessing.get_context("spawn")
    running = {}
    results = []
    try:
        with _deaf_to_ctrl_c():
            for device in devices:
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_extract_in_process, args=(job, device, theirs), name=f"egoctl {device}"
                )
                process.start()
                theirs.close()
                running[mine] = (device, process)
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                device, process = running.pop(pipe)
                results.append(_received(pipe, device))
                process.join()
                if results[-1].problem is not None:
                    say(f"The process of {device} ended: {results[-1].problem}")
    finally:
        left = [process for _, process in running.values()]
        for process in left:
            process.terminate()
        for process in left:
            process.join()
    return results


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started in here never hear Ctrl-C, not even while they import torch.

    A terminal sends it to all of them, and each would print a traceback; this one ends them.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def merged_report(results: Sequence[DeviceResult]) -> ExtractReport:
    """What all processes did together; failures are the store's, and so the same for all.

    Raises:
        EgoctlError: if none of them came to an end.
    """
    reports = [result.report for result in results if result.report is not None]
    if not reports:
        raise EgoctlError(f"no process came to an end: {results[0].problem}")
    total = max(reports, key=lambda report: report.seconds["wall"])
    total.num_done_before = min(report.num_done_before for report in reports)
    for report in reports:
        if report is not total:
            total.add(report)
    return total


def _first_videos(manifest: Manifest) -> list[Path]:
    """The first videos that can be decoded, as many as are measured."""
    found: list[Path] = []
    for path in dict.fromkeys(segment.video_path for segment in manifest.segments):
        try:
            video = manifest.locate(path)
            probe_video(video)
        except (VideoError, FileNotFoundError):
            continue  # its clips will report it
        found.append(video)
        if len(found) == MAX_VIDEOS:
            break
    return found


def _extract_in_process(job: ExtractJob, device: str, pipe: Connection) -> None:
    # Killed on the spot it would keep its claims, and the next run wait for them to expire.
    signal.signal(signal.SIGTERM, _leave)
    try:
        pipe.send(job.on(device).extract())
    except EgoctlError as error:
        pipe.send(str(error))


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _received(pipe: Connection, device: str) -> DeviceResult:
    try:
        found = pipe.recv()
    except EOFError:
        problem = "it died; its traceback, if it had one, is above"
        return DeviceResult(device=device, report=None, problem=problem)
    if isinstance(found, str):
        return DeviceResult(device=device, report=None, problem=found)
    return DeviceResult(device=device, report=found, problem=None)

"""The runs of a study's plan: their settings, their folders, and which are done."""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote
from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.pipeline.records import OK, Segment
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.typed_toml import near_miss, record_of
from egoctl.student.evaluation.evaluate import file_suffix
from egoctl.student.evaluation.metrics import ImuFrom
from egoctl.student.model.student_config import METHODS, StudentConfig
from egoctl.student.runs.pretrained_file import PRETRAINED_FILE
from egoctl.student.settings.config_file import setting_types, train_config
from egoctl.student.settings.pretrain_config import PretrainConfig
from egoctl.student.settings.train_config import MAY_DIFFER, TrainConfig
from egoctl.student.studies.plan import StudyPlan, StudyPretraining, StudyRow

OF_STUDY = ("manifest", "inputs", "teacher", "run", "seed", "pretrain")
"""Settings that the plan gives elsewhere, not in its tables of settings."""
GIVEN = ("manifest", "inputs", "teacher", "run", "seed", "student", "feature_cache")
"""Fields that the study itself fills in for every pretraining."""
FROM_ROW = ("val_split", "standardise_targets", "l1_reduction", "allow_missing", "precision",
            "device", "num_workers")  # fmt: skip
"""Settings of a row that its pretraining takes over if it has none of its own."""


@dataclass(kw_only=True, slots=True)
class StudyData:
    """Manifests and stores, each opened once."""

    plan: StudyPlan
    manifests: dict[tuple[str, float | None], Manifest] = field(default_factory=dict)
    digests: dict[tuple[str, str], str] = field(default_factory=dict)

    def manifest(self, train_split: str, share: float | None) -> Manifest:
        key = (train_split, share)
        if key not in self.manifests:
            if share is None:
                self.manifests[key] = read_manifest(self.plan.manifest)
            else:
                self.manifests[key] = labelled_part(
                    self.manifest(train_split, None), train_split=train_split, share=share
                )
        return self.manifests[key]

    def digest(self, store: str, manifest: Manifest) -> str:
        """Digest of the store's rows that are clips of the manifest."""
        key = (store, manifest.fingerprint())
        if key not in self.digests:
            opened = FeatureStore.open(store)
            ids = [clip.clip_id for clip in manifest.clips()]
            rows = opened.rows().filter((pl.col("outcome") == OK) & pl.col("clip_id").is_in(ids))
            self.digests[key] = opened.digest_of(rows["row"].to_numpy())
            opened.close()
        return self.digests[key]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRun:
    """A pretraining, shared by every run that wants the same one."""

    name: str
    config: PretrainConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @property
    def is_done(self) -> bool:
        return (self.folder / PRETRAINED_FILE).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRun:
    """One student: a row with a teacher and a seed."""

    row: str
    teacher: str | None
    """Its name in the plan; None: no teacher takes part, so the run is shown with every teacher."""
    seed: int
    config: TrainConfig
    split: str
    imu: tuple[ImuFrom, ...]
    """Whose IMU it is evaluated with."""
    beside: str
    """The teacher store that it is evaluated beside: the plan's first if it learns from none."""
    pretraining: PretrainRun | None

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.row, self.teacher, f"seed {self.seed}")))

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    def metrics_file(self, imu: str) -> Path:
        """Where evaluate writes what it found."""
        return self.folder / f"metrics{file_suffix(self.split, typing.cast(ImuFrom, imu))}.json"

    @property
    def is_done(self) -> bool:
        return all(self.metrics_file(imu).is_file() for imu in self.imu)


def planned_runs(plan: StudyPlan) -> list[StudyRun]:
    """Every run of the plan, all rows of a seed before the next seed.

    Raises:
        EgoctlError: for settings that training does not know, or stores that are not there.
    """
    if is_remote(plan.out):
        raise EgoctlError(f"out must be a folder of this machine, got {plan.out}.")
    data = StudyData(plan=plan)
    runs: dict[str, StudyRun] = {}
    for seed in plan.seeds:
        for teacher in plan.teachers:
            for row in plan.rows:
                try:
                    run = _run(plan, data, row, teacher, seed)
                except EgoctlError as error:
                    raise EgoctlError(f"row {row.name}: {error}") from error
                # A run without a teacher comes up once per teacher.
                runs.setdefault(run.config.run, run)
    return list(runs.values())


def _run(plan: StudyPlan, data: StudyData, row: StudyRow, teacher: str, seed: int) -> StudyRun:
    settings = {**plan.settings, **row.settings}
    if wrong := sorted(set(settings) & set(OF_STUDY)):
        raise EgoctlError(f"{wrong[0]!r} is no setting here: the study gives it to every run.")
    inputs = plan.inputs[row.inputs] if row.inputs else next(iter(plan.inputs.values()))
    share = row.labelled_share
    train_split = str(settings.get("train_split", "train"))
    given = {
        "manifest": plan.manifest if share is None else str(share_file(plan, train_split, share)),
        "inputs": inputs,
        "run": "later",
        "seed": seed,
        "feature_cache": str(Path(plan.out) / "features"),
    }
    method = METHODS.get(str(settings.get("method", "egodistill")))
    distills = method is None or method.distills  # train_config reports an unknown method
    if distills:
        given["teacher"] = plan.teachers[teacher]
    config = train_config({**given, **settings})
    pretraining = None
    if row.pretrain is not None:
        planned = next(p for p in plan.pretrainings if p.name == row.pretrain)
        pretraining = planned_pretraining(plan, data, planned, settings, inputs, teacher, seed)
        given["pretrain"] = pretraining.config.run
    manifest = data.manifest(train_split, share)
    depends = distills or (pretraining is not None and pretraining.config.uses_l1)
    folder = run_folder(
        Path(plan.out) / "runs",
        (row.name, teacher if depends else None, seed),
        {
            "settings": that_decide(settings),
            "split": plan.split,
            "pretraining": None if pretraining is None else pretraining.folder.name,
            "manifest": manifest.fingerprint(),
            "inputs": data.digest(inputs, manifest),
            "teacher": data.digest(plan.teachers[teacher], manifest) if distills else None,
        },
    )
    return StudyRun(
        row=row.name,
        teacher=teacher if depends else None,
        seed=seed,
        config=train_config({**given, **settings, "run": str(folder)}),
        split=plan.split,
        imu=_imu_of(plan, row.name, uses_imu=config.student.parts.uses_imu),
        beside=plan.teachers[teacher if depends else next(iter(plan.teachers))],
        pretraining=pretraining,
    )


def planned_pretraining(
    plan: StudyPlan,
    data: StudyData,
    planned: StudyPretraining,
    of_row: Mapping[str, Any],
    inputs: str,
    teacher: str,
    seed: int,
) -> PretrainRun:
    """The pretraining that a row begins with: its own settings, and the row's for the student."""
    known = [field.name for field in dataclasses.fields(PretrainConfig) if field.name not in GIVEN]
    if unknown := sorted(set(planned.settings) - set(known)):
        raise EgoctlError(
            f"pretrain {planned.name}: unknown key {unknown[0]!r}. {near_miss(unknown[0], known)}"
        )
    types = setting_types()
    of_student = {
        name: value
        for name, value in of_row.items()
        # Frozen or not makes no difference: pretraining only reads the features.
        if types[name][0] is StudentConfig and name not in ("method", "freeze_image_encoder")
    }
    train_split = str(of_row.get("train_split", "train"))
    settings: dict[str, Any] = {"splits": [train_split]}
    settings |= {name: of_row[name] for name in FROM_ROW if name in of_row}
    settings |= planned.settings
    used = plan.inputs[planned.inputs] if planned.inputs else inputs
    uses_l1 = settings.get("losses", "nce+l1") != "nce"
    manifest = data.manifest(train_split, None)
    folder = run_folder(
        Path(plan.out) / "pretrained",
        (planned.name, teacher if uses_l1 else None, seed),
        {
            "settings": that_decide(settings),
            "student": of_student,
            "manifest": manifest.fingerprint(),
            "inputs": data.digest(used, manifest),
            "teacher": data.digest(plan.teachers[teacher], manifest) if uses_l1 else None,
        },
    )
    given = {
        "manifest": plan.manifest,
        "inputs": used,
        "teacher": plan.teachers[teacher] if uses_l1 else None,
        "run": str(folder),
        "student": of_student,
        "seed": seed,
        "feature_cache": Path(plan.out) / "features",
    }
    config = record_of(PretrainConfig, settings | given, where=f"pretrain {planned.name}")
    return PretrainRun(name=planned.name, config=config)


def share_file(plan: StudyPlan, train_split: str, share: float) -> Path:
    """Where the manifest with that share of the train segments lies."""
    # Quoted: a split's name may hold any characters, also a slash.
    return Path(plan.out) / "manifests" / f"{quote(train_split, safe='')}-{share:g}.parquet"


def _imu_of(plan: StudyPlan, row: str, *, uses_imu: bool) -> tuple[ImuFrom, ...]:
    asked = {imu for table in plan.tables if row in table.rows for imu in table.imu}
    return tuple(
        imu for imu in typing.get_args(ImuFrom) if imu == "own" or (uses_imu and imu in asked)
    )


def that_decide(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that only state where a run reads and computes."""
    return {key: value for key, value in settings.items() if f"train.{key}" not in MAY_DIFFER}


def run_folder(
    parent: Path, names: tuple[str, str | None, int], decides: Mapping[str, Any]
) -> Path:
    """Folder named by row or pretraining, teacher, seed, and a digest of all that decides."""
    digest = blake3(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:10]
    return parent / "--".join([*(str(name) for name in names if name is not None), digest])


def labelled_part(manifest: Manifest, *, train_split: str, share: float) -> Manifest:
    """The manifest with that share of the labelled train segments, rounded up, of every class.

    Which ones stay depends on their ids alone, so a smaller share is part of a larger one. Train
    segments without a label go. Paths become absolute: it may be written anywhere.
    """
    of_class: dict[int, list[Segment]] = {}
    for segment in manifest.segments:
        if segment.split == train_split and segment.label is not None:
            of_class.setdefault(segment.label, []).append(segment)
    stay = {
        segment.segment_id
        for segments in of_class.values()
        for segment in sorted(segments, key=_order)[: math.ceil(share * len(segments))]
    }
    return dataclasses.replace(
        manifest,
        segments=tuple(
            _absolute(manifest, segment)
            for segment in manifest.segments
            if segment.split != train_split or segment.segment_id in stay
        ),
    )


def _order(segment: Segment) -> str:
    return blake3(segment.segment_id.encode()).hexdigest()


def _absolute(manifest: Manifest, segment: Segment) -> Segment:
    imu_path = segment.imu_path
    return dataclasses.replace(
        segment,
        video_path=manifest.media(segment.video_path).url,
        imu_path=None if imu_path is None else manifest.media(imu_path).url,
    )

"""The runs that a study's plan asks for: their settings, their folders, what is done of them."""

import typing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote
from egoctl.student.evaluation.evaluate import file_suffix
from egoctl.student.evaluation.metrics import ImuFrom
from egoctl.student.model.student import METHODS
from egoctl.student.settings.config_file import train_config
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.studies.plan import StudyPlan, StudyRow
from egoctl.student.study_data import StudyData, run_folder, that_decide
from egoctl.student.study_pretraining import PretrainRun, planned_pretraining

OF_STUDY = ("manifest", "inputs", "teacher", "run", "seed", "pretrain")
"""What the plan says elsewhere than among settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRun:
    """One student: a row with a teacher and a seed."""

    row: str
    teacher: str | None
    """Its name in the plan; None: no teacher takes part, so it stands for all of them."""
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


def share_file(plan: StudyPlan, train_split: str, share: float) -> Path:
    """Where the manifest with that share of the train segments lies."""
    # Quoted: a split's name may hold any characters, also a slash.
    return Path(plan.out) / "manifests" / f"{quote(train_split, safe='')}-{share:g}.parquet"


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
    distills = method is None or method.distills  # of an unknown method, train_config tells
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


def _imu_of(plan: StudyPlan, row: str, *, uses_imu: bool) -> tuple[ImuFrom, ...]:
    asked = {imu for table in plan.tables if row in table.rows for imu in table.imu}
    return tuple(
        imu for imu in typing.get_args(ImuFrom) if imu == "own" or (uses_imu and imu in asked)
    )

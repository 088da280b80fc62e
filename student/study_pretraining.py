"""The pretrainings that a study's rows begin with; rows that want the same one share it."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.student import StudentConfig
from egoctl.student.runs.pretrained_file import PRETRAINED_FILE
from egoctl.student.settings.config_file import setting_types
from egoctl.student.settings.pretrain_config import PretrainConfig
from egoctl.student.studies.plan import StudyPlan, StudyPretraining
from egoctl.student.studies.plan_file import fits
from egoctl.student.study_data import StudyData, run_folder, that_decide

GIVEN = ("manifest", "inputs", "teacher", "run", "seed", "student", "feature_cache")
"""What the study gives to every pretraining."""
FROM_ROW = ("val_split", "standardise_targets", "l1_reduction", "allow_missing", "precision",
            "device", "num_workers")  # fmt: skip
"""Settings of a row that its pretraining shares unless it says otherwise."""


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


def planned_pretraining(
    plan: StudyPlan,
    data: StudyData,
    planned: StudyPretraining,
    of_row: Mapping[str, Any],
    inputs: str,
    teacher: str,
    seed: int,
) -> PretrainRun:
    """Its settings are its own and, of the student that it is for, those of the row."""
    hints = typing.get_type_hints(PretrainConfig)
    for name, value in planned.settings.items():
        if name in GIVEN or name not in hints:
            known = ", ".join(name for name in hints if name not in GIVEN)
            raise EgoctlError(f"pretrain {planned.name} knows no {name!r}. Known: {known}.")
        if not fits(value, hints[name]):
            raise EgoctlError(f"pretrain {planned.name}: {name} cannot be {value!r}.")
    types = setting_types()
    of_student = {
        name: value
        for name, value in of_row.items()
        # Of a frozen network or not, pretraining only ever reads the features.
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
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    config = PretrainConfig(
        manifest=plan.manifest,
        inputs=used,
        teacher=plan.teachers[teacher] if uses_l1 else None,
        run=str(folder),
        student=StudentConfig(**of_student),
        seed=seed,
        feature_cache=Path(plan.out) / "features",
        **values,
    )
    return PretrainRun(name=planned.name, config=config)

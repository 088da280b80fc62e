"""What a study's runs read, each opened once, and the folders that they are kept in.

A folder's name ends with a digest of everything that decides what comes out of the run: settings,
manifest and the content of the stores. So what is found there under that name is that run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from blake3 import blake3

from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.read_clips import OK
from egoctl.student.settings.train_config import MAY_DIFFER
from egoctl.student.studies.labelled_share import labelled_part
from egoctl.student.studies.plan import StudyPlan


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
        """Of the store's rows of the manifest's clips."""
        key = (store, manifest.fingerprint())
        if key not in self.digests:
            opened = FeatureStore.open(store)
            ids = [clip.clip_id for clip in manifest.clips()]
            rows = opened.rows().filter((pl.col("outcome") == OK) & pl.col("clip_id").is_in(ids))
            self.digests[key] = opened.digest_of(rows["row"].to_numpy())
            opened.close()
        return self.digests[key]


def that_decide(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that say only where a run reads and computes."""
    return {key: value for key, value in settings.items() if f"train.{key}" not in MAY_DIFFER}


def run_folder(
    parent: Path, names: tuple[str, str | None, int], decides: Mapping[str, Any]
) -> Path:
    """Row or pretraining, teacher, seed, and a digest of what decides."""
    digest = blake3(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:10]
    return parent / "--".join([*(str(name) for name in names if name is not None), digest])

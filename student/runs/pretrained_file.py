"""pretrained.safetensors: what a finished pretraining run leaves, and how a student takes it over.

The file names the student it was made for, so it may be copied, and is refused where it does not
fit.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote, local_path
from egoctl.pipeline.files.whole_file import whole_file
from egoctl.pipeline.runs.run_place import run_folder_at
from egoctl.student.model.student import Student

PRETRAINED_FILE = "pretrained.safetensors"
_METADATA = "egoctl_pretraining"
"""One key: safetensors writes several in any order, and the file's digest would change."""
_OF_IMU = ("imu_out", "imu_readout", "imu_samples")
_OF_FUSION = ("num_frames", "fusion_hidden", "teacher_dim")


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeFor:
    """The student that a pretraining is for, and what its fusion was trained towards."""

    imu_out: int
    imu_readout: str
    imu_samples: int
    num_frames: int
    fusion_hidden: int
    image_encoder: str
    image_weights: str
    """Digest of the weights."""
    teacher_dim: int | None
    """None without L1, as with the next two; then there is no fusion, either."""
    teacher: str | None
    """Fingerprint of the targets."""
    standardise_targets: bool | None

    @property
    def has_fusion(self) -> bool:
        """L1 took part, so there is a fusion to take over."""
        return self.teacher_dim is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """A pretrained file, read."""

    url: str
    """Path or URL as the user gave it."""
    made_for: MadeFor
    weights: Mapping[str, Tensor]
    digest: str
    """Digest of the whole file."""


def write_pretrained(file: Path, weights: Mapping[str, Tensor], made_for: MadeFor) -> None:
    """Replace the file; the same content gives the same bytes."""
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    metadata = {_METADATA: json.dumps(dataclasses.asdict(made_for))}
    with whole_file(file) as part:
        safetensors.torch.save_file(contiguous, part, metadata=metadata)


def read_pretraining(url: str) -> Pretraining:
    """The pretraining of a run (path or URL), or in a file of this machine.

    Raises:
        EgoctlError: if there is none, the run is not finished, or the file is damaged.
    """
    if not is_remote(url) and Path(local_path(url)).is_file():
        return _read(Path(local_path(url)), url)
    with run_folder_at(url) as run:
        file = run.folder / PRETRAINED_FILE
        if not file.is_file():
            raise EgoctlError(
                f"no {PRETRAINED_FILE} in {url}: 'egoctl pretrain-imu' writes it when its last "
                "epoch is done. Finish that run, or give the path of such a file."
            )
        return _read(file, url)


def _read(file: Path, url: str) -> Pretraining:
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA)
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        content = file.read_bytes()
    except (OSError, SafetensorError) as error:
        raise EgoctlError(
            f"{url} is damaged ({error}). Pretrain again with a new --run."
        ) from error
    if text is None:
        raise EgoctlError(f"{url} is no {PRETRAINED_FILE} of 'egoctl pretrain-imu'.")
    try:
        made_for = MadeFor(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise EgoctlError(
            f"{url} is not of this version of egoctl ({error}). Pretrain again with a new --run."
        ) from error
    return Pretraining(
        url=url, made_for=made_for, weights=weights, digest=blake3(content).hexdigest()
    )


def refuse_misfit(
    student: Student,
    pretraining: Pretraining,
    *,
    teacher: str | None,
    standardise_targets: bool,
) -> None:
    """Check that the pretraining was made for such a student.

    teacher: fingerprint of the targets that the student learns from, None if it does not.

    Raises:
        EgoctlError: naming what differs.
    """
    config = student.config
    if student.imu is None:
        raise EgoctlError(
            f"--pretrain gives an IMU encoder, and {config.method} has none. Leave it out."
        )
    wanted = {name: getattr(config, name) for name in _OF_IMU}
    if student.image is not None:
        wanted["image_encoder"] = config.image_encoder
        wanted["image_weights"] = student.image.weights_digest()
    if _takes_fusion(student, pretraining):
        wanted |= {name: getattr(config, name) for name in _OF_FUSION}
        if teacher is not None:
            wanted |= {"teacher": teacher, "standardise_targets": standardise_targets}
    lines = list(_differences(dataclasses.asdict(pretraining.made_for), wanted))
    if lines:
        raise EgoctlError(
            f"{pretraining.url} was pretrained for another student: {'; '.join(lines)}. "
            "Train with its settings, or pretrain for these with a new --run."
        )


def initialise(student: Student, pretraining: Pretraining) -> str:
    """Give the student the pretrained weights; a sentence that names them.

    With the fusion come the statistics that its inputs and outputs are scaled by. A student of
    IMU alone has another fusion, and takes the IMU encoder.
    """
    takes_fusion = _takes_fusion(student, pretraining)
    prefixes = ("imu.", "gru.", "to_feature.") if takes_fusion else ("imu.",)
    taken = [name for name in pretraining.weights if name.startswith(prefixes)]
    if takes_fusion:
        taken += ["image_mean_I", "image_std_I", "target_mean_D", "target_std_D"]
    weights = {name: pretraining.weights[name] for name in taken}
    student.load_state_dict({**student.state_dict(), **weights})
    parts = "IMU encoder and fusion" if takes_fusion else "IMU encoder"
    return f"{parts} begin as pretrained in {pretraining.url}"


def _takes_fusion(student: Student, pretraining: Pretraining) -> bool:
    return pretraining.made_for.has_fusion and student.image is not None


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name, here in wanted.items():
        if found[name] != here:
            yield f"{name} {_shown(found[name])} there, {_shown(here)} here"


def _shown(value: Any) -> str:
    # The beginning of a digest is enough to compare it by eye.
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)

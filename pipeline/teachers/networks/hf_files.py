"""What a model folder or hub page of Hugging Face holds: config, processor, safetensors weights.

Nothing in them is executed: code that comes with a model is not asked for, and pickled weights are
not read.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.checkpoints import Checkpoint, StateDict, read_checkpoint

PREFIX = "hf:"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """How a model's own processor prepares frames, in the terms of a TeacherSpec."""

    short_side_px: int
    crop_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rate_hz: float | None
    """Frames per second, where a video processor has it."""


def transformers_library() -> Any:
    """The package.

    Raises:
        EgoctlError: if it is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise EgoctlError(
            f"teachers called {PREFIX}... need the package {error.name}. pip install 'egoctl[hf]'"
        ) from error
    return transformers


def place_of(name: str) -> str:
    """The folder or the hub's ORG/MODEL that a teacher's name means.

    Raises:
        EgoctlError: if it is a path without a folder, or nothing.
    """
    place = name.removeprefix(PREFIX)
    if Path(place).expanduser().is_dir() and place:
        return str(Path(place).expanduser())
    if not place or place[0] in "./~":
        raise EgoctlError(
            f"no folder {place!r}. Write hf:FOLDER with a folder of save_pretrained, or "
            "hf:ORG/MODEL as the hub calls it."
        )
    return place


def is_local(place: str) -> bool:
    return Path(place).is_dir()


def read_config(place: str) -> dict[str, Any]:
    """config.json as it is.

    Raises:
        EgoctlError: if there is none to be had.
    """
    transformers = transformers_library()
    with _one_line_errors(place, "config.json"), quiet():
        config, _ = transformers.PreTrainedConfig.get_config_dict(place)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise EgoctlError(f"{place}: its config.json has no model_type, so it cannot be built.")
    return config


def read_typed_config(place: str, class_name: str) -> Any:
    """The configuration of one of the library's own classes."""
    with _one_line_errors(place, "config.json"), quiet():
        return getattr(transformers_library(), class_name).config_class.from_pretrained(place)


def read_pixels(place: str, *, is_video: bool) -> Pixels:
    """The pixels that the processor makes.

    Raises:
        EgoctlError: if there is none, or it does what a TeacherSpec has no words for.
    """
    transformers = transformers_library()
    kind = transformers.AutoVideoProcessor if is_video else transformers.AutoImageProcessor
    with _one_line_errors(place, "preprocessor_config.json"), quiet():
        processor = kind.from_pretrained(place, trust_remote_code=False)
    if not processor.do_rescale or abs(processor.rescale_factor - 1 / 255) > 1e-9:
        raise EgoctlError(f"{place}: its processor does not scale pixels to [0, 1] first.")
    if getattr(processor, "do_flip_channel_order", None):
        raise EgoctlError(f"{place}: its processor wants BGR; only RGB is supported here.")
    short_side_px = _short_side(processor.size, place)
    crops = processor.do_center_crop and processor.crop_size is not None
    crop_px = _short_side(processor.crop_size, place) if crops else short_side_px
    rate_hz = getattr(processor, "fps", None)
    return Pixels(
        short_side_px=max(short_side_px, crop_px),
        crop_px=crop_px,
        mean=_triple(processor.image_mean, place) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=_triple(processor.image_std, place) if processor.do_normalize else (1.0, 1.0, 1.0),
        rate_hz=None if rate_hz is None else float(rate_hz),
    )


def read_weights(place: str) -> Checkpoint:
    """The published weights, from one file or several.

    Raises:
        EgoctlError: if there are none as safetensors.
    """
    whole = _fetched(place, WEIGHTS)
    if whole is not None:
        return read_checkpoint(whole)
    index = _fetched(place, WEIGHTS_INDEX)
    if index is None:
        raise EgoctlError(
            f"{place} has no {WEIGHTS}, and pickled weights are not read here. Where you trust "
            "them, load and save the model with transformers' save_pretrained(FOLDER), and pass "
            "--teacher hf:FOLDER."
        )
    with _one_line_errors(place, WEIGHTS_INDEX):
        file_names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    state: StateDict = {}
    for file_name in file_names:
        shard = _fetched(place, file_name)
        if shard is None:
            raise EgoctlError(f"{place}: {WEIGHTS_INDEX} names {file_name}, which is not there.")
        state |= read_checkpoint(shard).state
    return Checkpoint(state=state, class_names=None, origin=str(index))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars and reports: what matters in them is checked here."""
    talk = transformers_library().utils.logging
    before, had_bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity(logging.ERROR)
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(before)
        if had_bars:
            talk.enable_progress_bar()


def _fetched(place: str, file_name: str) -> Path | None:
    """The file, downloaded where place is on the hub; None: there is none of that name."""
    from transformers.utils import cached_file

    with _one_line_errors(place, file_name):
        found = cached_file(place, file_name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


@contextmanager
def _one_line_errors(place: str, what: str) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError  # a value of a wrong type

    try:
        yield
    # The library's words for all that a hub, a folder or a file can lack, and what its code runs
    # into where JSON is not of the form that it expects.
    except (
        *(OSError, ValueError, TypeError, AttributeError, LookupError),
        StrictDataclassError,
    ) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EgoctlError(
            f"{what} of {place} cannot be had ({reason}). Check the name and the network, or pass "
            "a folder, as --teacher hf:FOLDER."
        ) from error


def _short_side(size: Any, place: str) -> int:
    """A size in any of the library's forms; of a fixed shape, its short side."""
    if size is not None and size.shortest_edge is not None:
        return int(size.shortest_edge)
    if size is not None and size.height is not None and size.width is not None:
        return int(min(size.height, size.width))
    raise EgoctlError(f"{place}: its processor has no size that all frames get.")


def _triple(values: Any, place: str) -> tuple[float, float, float]:
    """Three values: one per channel, or one for all."""
    one_each = [values] * 3 if isinstance(values, int | float) else list(values)
    if len(one_each) != 3:
        raise EgoctlError(f"{place}: its processor is for {len(one_each)} channels, not for RGB.")
    red, green, blue = map(float, one_each)
    return red, green, blue

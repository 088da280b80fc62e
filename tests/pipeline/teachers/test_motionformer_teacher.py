"""MotionFormer as people load it: published files in, targets in a store; wrong files refused."""

# B batch, T frames, C channels

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import Clip
from egoctl.pipeline.sampling import frame_times
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.checkpoints import save_checkpoint
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_spec
from egoctl.pipeline.teachers.networks import motionformer_teacher
from egoctl.pipeline.teachers.networks.motionformer import MotionFormer, MotionFormerConfig
from egoctl.tests.fixtures.student.hashed_weights import fill
from egoctl.tests.worlds.extract_world import World, all_frames, draw_colours, pixels, shown_at

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "num_frames": 8, "crop_px": 64, "width": 96, "depth": 2, "num_heads": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant with the small network of the fixtures: names, heads and inputs stay."""
    for name, variant in motionformer_teacher.VARIANTS.items():
        crop_px = 96 if variant.config.crop_px == 336 else 64
        num_frames = 16 if variant.config.num_frames == 32 else 8
        settings = {**SMALL, "crop_px": crop_px, "num_frames": num_frames}
        small = replace(variant, config=replace(variant.config, **settings))
        monkeypatch.setitem(motionformer_teacher.VARIANTS, name, small)


def net(**settings: Any) -> MotionFormer:
    found = MotionFormer(MotionFormerConfig(**{**SMALL, **settings}))
    fill(found, gain=1.0)
    return found.eval()


def write_pyth(path: Path, network: MotionFormer, *, prefix: str = "", **entries: object) -> Path:
    """As PySlowFast and MotionFormer's authors save: state, optimiser, epoch, config text."""
    state = {prefix + key: value for key, value in network.state_dict().items()}
    optimiser = {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": []}
    content = {"epoch": 50, "model_state": state, "optimizer_state": optimiser, **entries}
    torch.save(content, path)
    return path


def load(name: str, weights: Path) -> Any:
    return load_teacher(name, weights=str(weights), device=CPU)


def test_a_published_file_gives_its_targets_through_the_command(tmp_path) -> None:
    network = net()
    weights = write_pyth(tmp_path / "ek.pyth", network, cfg="DATA:\n  NUM_FRAMES: 8\n")
    world = World(folder=tmp_path)
    video = draw_colours(world.videos / "a.mp4", seconds=4)
    world.manifest([{"segment_id": "s", "video": "a.mp4", "start_s": 0.5, "stop_s": 3.5}])

    done = CliRunner().invoke(cli.app, [
        "extract-teacher", str(world.manifest_path), "--teacher", "motionformer",
        "--weights", str(weights), "--store", world.teacher_url, "--dtype", "float32",
        "--device", "cpu",
    ])  # fmt: skip

    assert done.exit_code == 0, done.output
    store = FeatureStore.open(world.teacher_url)
    rows = store.rows().filter(outcome="ok")
    assert len(rows) == 3
    frames = all_frames(video)
    for row in rows.iter_rows(named=True):
        clip = Clip(
            clip_id=row["clip_id"], segment_id="s", video_id="a",
            start_s=row["start_s"], stop_s=row["stop_s"],
        )  # fmt: skip
        # By hand: 96 x 64 pixels, the middle 64; BGR; from -1 to 1; float64, the plain form.
        picked = [shown_at(frames, float(t))[1] for t in frame_times(clip, 8, 4 / 30)]
        bgr_THWC = np.stack([pixels(frame, 96, 64)[:, 16:80, ::-1] for frame in picked])
        video_BCTHW = torch.from_numpy((bgr_THWC / 255 - 0.5) / 0.5).permute(3, 0, 1, 2)[None]
        with torch.inference_mode():
            feature_BD, heads = network.double()(video_BCTHW)
        found = {
            name: store.read(name, np.array([row["row"]]))[0] for name in ("feature", "logits")
        }
        np.testing.assert_allclose(found["feature"], feature_BD[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(found["logits"], torch.cat(heads, dim=1)[0].numpy(), atol=1e-5)
    recipe = store.header.recipe
    assert (recipe["teacher"], recipe["tap"], recipe["channel_order"]) == (
        "motionformer", "pre_logits", "bgr",
    )  # fmt: skip
    assert recipe["head_sizes"] == [97, 300]


@pytest.mark.parametrize("form", ["plain", "shortcut", "lean"])
def test_forms_are_chosen_in_the_name_and_give_the_same(tmp_path, form) -> None:
    network = net()
    weights = write_pyth(tmp_path / "ek.pyth", network, prefix="module.")
    video_BCTHW = torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))

    teacher = load(f"motionformer,form={form}", weights)

    # 'lean' is the default, and a recipe does not tell defaults.
    assert teacher.spec.name == ("motionformer" if form == "lean" else f"motionformer,form={form}")
    with torch.inference_mode():
        wanted, heads = network(video_BCTHW)
        feature_BD = teacher.feature(video_BCTHW)
        torch.testing.assert_close(feature_BD, wanted, rtol=0, atol=2e-5)
        torch.testing.assert_close(
            teacher.logits(feature_BD), torch.cat(heads, dim=1), rtol=0, atol=2e-5
        )


def test_the_tap_before_the_tanh_gives_the_same_logits(tmp_path) -> None:
    weights = write_pyth(tmp_path / "ek.pyth", net())
    video_BCTHW = torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    usual, early = load("motionformer", weights), load("motionformer,tap=norm_cls", weights)

    with torch.inference_mode():
        feature_BD, early_BD = usual.feature(video_BCTHW), early.feature(video_BCTHW)
        torch.testing.assert_close(usual.logits(feature_BD), early.logits(early_BD))
        torch.testing.assert_close(feature_BD, usual.net.pre_logits(early_BD))
    assert early.spec.tap == "norm_cls"


def test_every_variant_has_the_input_that_it_was_trained_on() -> None:
    found = {
        name: (spec.num_frames, spec.crop_px, round(30 * spec.stride_s), spec.channel_order)
        for name in motionformer_teacher.VARIANTS
        for spec in [teacher_spec(name)]
    }

    # Frames and crops are those of the small networks: 8 for 16, 16 for 32; 64 for 224, 96 for 336.
    assert found == {
        "motionformer": (8, 64, 4, "bgr"),
        "motionformer_hr": (8, 96, 4, "bgr"),
        "motionformer_l": (16, 64, 3, "bgr"),
        "motionformer_k400": (8, 64, 4, "rgb"),
        "motionformer_k400_hr": (8, 96, 8, "rgb"),
        "motionformer_k400_l": (16, 64, 3, "rgb"),
        "motionformer_k400_joint": (8, 64, 4, "rgb"),
        "motionformer_k400_divided": (8, 64, 4, "rgb"),
    }


def test_our_own_weights_bring_their_own_classes(tmp_path) -> None:
    names = ["open", "close", "cut"]
    state = net(head_sizes=(3,)).state_dict()
    save_checkpoint(tmp_path / "mine.safetensors", state, class_names=names)

    teacher = load("motionformer", tmp_path / "mine.safetensors")

    assert teacher.spec.num_classes == 3 and teacher.spec.head_sizes == ()
    assert teacher.weights.class_names == ("open", "close", "cut")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "motionformer",
            {"head_sizes": (400,)},
            r"has classifiers of 400 classes, and teacher motionformer of 97 and 300\. Pass the "
            r"teacher .*motionformer_k400.*, or --teacher motionformer,heads=any",
        ),
        (
            "motionformer",
            {"attention": "divided"},
            r"does not fit teacher motionformer: 8 missing \(blocks.0.attn.proj_q.weight.*"
            r"12 unexpected",
        ),
        (
            "motionformer_l",
            {},
            r"does not fit teacher motionformer_l: .*1 of another shape \(temp_embed: "
            r"\(1, 4, 96\), wanted \(1, 8, 96\)\)",
        ),
        (
            "motionformer",
            {"width": 48},
            r"does not fit teacher motionformer: .*\d+ of another shape",
        ),
    ],
)
def test_a_file_of_another_network_is_refused(tmp_path, name, settings, message) -> None:
    weights = write_pyth(tmp_path / "other.pyth", net(**settings))

    with pytest.raises(EgoctlError, match=message):
        load(name, weights)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("TRAIN_CROP_SIZE: 336", "was trained with crops of 336, and teacher motionformer has 64"),
        ("NUM_FRAMES: 32", "was trained with frames: 32, and teacher motionformer has 8"),
        ("SAMPLING_RATE: 3", "with a frame stride of 3, and teacher motionformer has 4"),
        ("ATTN_LAYER: joint", "with attention joint, and teacher motionformer has trajectory"),
        ("USE_ORIGINAL_TRAJ_ATTN_CODE: false", "USE_ORIGINAL_TRAJ_ATTN_CODE false, and .* true"),
    ],
)
def test_what_only_the_training_config_tells_is_compared(tmp_path, line, message) -> None:
    weights = write_pyth(tmp_path / "hr.pyth", net(), cfg=f"DATA:\n  {line}\n  OTHER: 1\n")

    with pytest.raises(EgoctlError, match=message):
        load("motionformer", weights)


def test_weights_of_the_corrected_code_load_where_they_are_asked_for(tmp_path) -> None:
    text = "VIT:\n  USE_ORIGINAL_TRAJ_ATTN_CODE: False\n"
    weights = write_pyth(tmp_path / "corrected.pyth", net(trajectory="corrected"), cfg=text)

    teacher = load("motionformer,trajectory=corrected", weights)

    assert teacher.spec.name == "motionformer,trajectory=corrected"


def test_other_heads_are_taken_when_told(tmp_path) -> None:
    weights = write_pyth(tmp_path / "ssv2.pyth", net(head_sizes=(174,)))

    teacher = load("motionformer_k400,heads=any", weights)

    assert (teacher.spec.num_classes, teacher.spec.head_sizes) == (174, ())
    assert teacher.spec.name == "motionformer_k400,heads=any"


def test_what_fits_is_taken_when_told_and_the_rest_is_named(tmp_path) -> None:
    network = net(attention="joint")
    weights = write_pyth(tmp_path / "joint.pyth", network)

    teacher = load("motionformer,fit=partial", weights)

    misfits = teacher.weights.misfits
    assert misfits is not None and len(misfits.missing) == 2 * 4 and not misfits.unexpected
    key = "blocks.0.mlp.fc1.weight"
    assert teacher.state()[key].equal(network.state_dict()[key])


@pytest.mark.parametrize(
    "head",
    [{}, {"head.weight": torch.zeros(0, 96)}, {"head0.weight": torch.tensor(1.0)}],
    ids=["none", "of no class", "a number"],
)
def test_a_file_without_classifier_is_refused(tmp_path, head) -> None:
    save_file({"blocks.0.norm1.weight": torch.ones(96), **head}, tmp_path / "x.safetensors")

    with pytest.raises(EgoctlError, match="it has no head.weight or head0.weight. Pass a Motion"):
        load("motionformer", tmp_path / "x.safetensors")


class _Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model_state": net().state_dict(), "hook": _Malice()}
    torch.save(content, tmp_path / "evil.pyth", pickle_module=pickle)

    with pytest.raises(EgoctlError, match="a pickle with code in it .*, which is never run here"):
        load("motionformer", tmp_path / "evil.pyth")

    assert not (tmp_path / "executed").exists()


def test_a_truncated_file_is_refused(tmp_path) -> None:
    weights = write_pyth(tmp_path / "cut.pyth", net())
    weights.write_bytes(weights.read_bytes()[:-5000])

    with pytest.raises(
        EgoctlError, match="cut.pyth cannot be read as plain tensors: it is damaged"
    ):
        load("motionformer", weights)


def test_an_option_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        EgoctlError, match=r"no option form=fast. It has form=lean\|shortcut\|plain"
    ):
        teacher_spec("motionformer,form=fast")


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(EgoctlError, match="form=lean,form=plain gives an option twice"):
        teacher_spec("motionformer,form=lean,form=plain")


def test_its_state_is_what_it_loads(tmp_path) -> None:
    network = net()
    teacher = load("motionformer", write_pyth(tmp_path / "ek.pyth", network))

    state: dict[str, Tensor] = teacher.state()

    assert state.keys() == network.state_dict().keys()
    assert all(value.equal(state[key]) for key, value in network.state_dict().items())

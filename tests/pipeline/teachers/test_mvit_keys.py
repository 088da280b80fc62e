"""One MViT-B under two names: the same weights give the same features."""

from typing import Any

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.networks.torchvision_models import with_torchvision_names

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pytorchvideos() -> Any:
    return load_teacher("mvit_base_16x4", weights="random:3", device=CPU)


def test_a_file_of_pytorchvideos_gives_torchvisions_network_its_features(pytorchvideos, tmp_path):
    torch.save({"model_state": pytorchvideos.state()}, tmp_path / "MVIT_B_16x4.pyth")
    video_BCTHW = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(1))

    torchvisions = load_teacher("mvit_v1_b", weights=str(tmp_path / "MVIT_B_16x4.pyth"), device=CPU)

    with torch.inference_mode():
        wanted_BD = pytorchvideos.feature(video_BCTHW)
        found_BD = torchvisions.feature(video_BCTHW)
        torch.testing.assert_close(found_BD, wanted_BD, rtol=0, atol=2e-5)
        torch.testing.assert_close(
            torchvisions.logits(found_BD), pytorchvideos.logits(wanted_BD), rtol=0, atol=2e-5
        )


def test_a_file_with_a_part_missing_is_refused(pytorchvideos, tmp_path) -> None:
    state = dict(pytorchvideos.state())
    del state["blocks.3.attn.k.weight"]
    torch.save(state, tmp_path / "cut.pyth")

    with pytest.raises(EgoctlError, match=r"1 of another shape \(blocks.3.attn.qkv.weight"):
        load_teacher("mvit_v1_b", weights=str(tmp_path / "cut.pyth"), device=CPU)


def test_torchvisions_own_names_stay() -> None:
    state = {"conv_proj.weight": torch.ones(2)}

    assert with_torchvision_names(state) is state

"""What teachers from Hugging Face's libraries have in common: no package, no hub, and licences."""

import sys

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.lineup import teacher_facts, teacher_spec

pytest_plugins = ["egoctl.tests.worlds.hub_world"]
pytestmark = pytest.mark.usefixtures("no_hub")


@pytest.mark.parametrize(
    ("teacher", "package", "extra"),
    [("hf:facebook/dinov2-base", "transformers", "hf"), ("timm:test_vit", "timm", "timm")],
)
def test_a_missing_package_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, teacher: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(
        EgoctlError, match=rf"need the package {package}. pip install 'egoctl\[{extra}\]'"
    ):
        teacher_spec(teacher)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("hf:nobody/no-model", "config.json of nobody/no-model cannot be had"),
        ("timm:nobody/no-model", "timm cannot make hf-hub:nobody/no-model"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_line(teacher: str, message: str) -> None:
    with pytest.raises(EgoctlError, match=message) as caught:
        teacher_spec(teacher)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "licence", "page"),
    [
        ("hf:facebook/dinov2-base", "Apache-2.0", "facebook/dinov2-base"),
        ("timm:vit_small_patch14_dinov2", "apache-2.0", "timm/vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_licences_are_told_where_they_are_known(teacher: str, licence: str, page: str) -> None:
    facts = teacher_facts(teacher)

    assert facts.weights_licence == licence
    assert facts.weights_from == f"https://huggingface.co/{page}"


@pytest.mark.parametrize("library", ["hf", "timm"])
def test_a_licence_that_is_not_known_is_on_the_models_card(library: str) -> None:
    assert teacher_facts(f"{library}:nobody/no-model").weights_licence == "see its model card"

"""The wheel: what a team installs is the package, and nothing else of the checkout."""

import ast
import configparser
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from egoctl.tests.worlds.places import ROOT

FILES = ("pyproject.toml", "README.md", "LICENSE", "cli.py", "py.typed")
FOLDERS = ("pipeline", "student", "tests", "docs", "manifests")
"""Also those that must not be in it."""


def package_files(checkout: Path) -> set[str]:
    """Whatever lies in the rooms of the package, also what is not Python."""
    rooms = (checkout / "pipeline", checkout / "student")
    files = [file for room in rooms for file in room.rglob("*") if file.is_file()]
    return {f"egoctl/{file.relative_to(checkout).as_posix()}" for file in files} | {
        "egoctl/cli.py",
        "egoctl/py.typed",
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that building leaves nothing behind in the real one."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    for name in FOLDERS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    files = package_files(checkout)  # before the build adds its own folders
    assert "egoctl/pipeline/store/feature_store.py" in files
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
            "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), ".",
        ],
        cwd=checkout, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [one for one in wheel.namelist() if one.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_the_wheel_holds_the_package_and_nothing_else(
    checkout: Path, wheel: zipfile.ZipFile
) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert inside == package_files(checkout)


def test_the_wheel_is_for_any_machine(wheel: zipfile.ZipFile) -> None:
    assert Path(wheel.filename or "").name == "egoctl-0.1.0-py3-none-any.whl"


def test_the_command_is_installed_under_its_name(wheel: zipfile.ZipFile) -> None:
    points = configparser.ConfigParser()
    points.read_string(metadata(wheel, "entry_points.txt"))

    assert {name: dict(points[name]) for name in points.sections()} == {
        "console_scripts": {"egoctl": "egoctl.cli:main"}
    }


def test_the_licence_travels_with_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert "License-Expression: Apache-2.0" in metadata(wheel, "METADATA").splitlines()


def test_the_readme_is_the_wheels_description(wheel: zipfile.ZipFile) -> None:
    said = metadata(wheel, "METADATA")

    assert "Description-Content-Type: text/markdown" in said
    assert said.endswith((ROOT / "README.md").read_text(encoding="utf-8"))


def declared(project: dict[str, list[str]], *groups: str) -> set[str]:
    """Names of the distributions that these groups ask for."""
    wanted = [line for group in groups for line in project[group]]
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in wanted}


def imported_packages(rooms: tuple[str, ...]) -> set[str]:
    """Top-level names of what files in these rooms import and Python does not bring."""
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    found = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_bytes()))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"egoctl"}


def test_every_package_that_is_imported_is_asked_for_by_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"run": project["dependencies"], **project["optional-dependencies"]}
    of_module = packages_distributions()

    for rooms, wanted in (
        (("pipeline", "student"), declared(groups, *(set(groups) - {"dev"}))),
        (("tests",), declared(groups, *groups)),
    ):
        for module in imported_packages(rooms):
            # What is not installed here cannot be looked up, and is named like its package.
            names = {name.lower() for name in of_module.get(module, [module])}
            assert names & wanted, f"{rooms} import {module}, but pyproject.toml asks for no such"


def test_every_package_that_is_asked_for_is_pinned_for_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"run": project["dependencies"], **project["optional-dependencies"]}
    pins = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in pins if not line.startswith("#")}

    assert declared(groups, *groups) - pinned == {"setuptools"}  # the build's, not ours


PUBLIC = {
    "cli": "app main",
    "pipeline.errors": "EgoctlError ManifestError StoreError StoreMismatchError ClipError "
    "VideoError ImuError",
    "pipeline.manifest": "Manifest read_manifest write_manifest",
    "pipeline.records": "Segment Clip TeacherSpec TeacherTargets ImuTrack ImuWindow RowOutcome",
    "pipeline.sampling": "frame_times uniform_times imu_times num_imu_samples clip_spans clips_of",
    "pipeline.store": "FeatureStore",
    "pipeline.teachers.checkpoints": "DefaultWeights read_checkpoint save_checkpoint state_sha256",
    "pipeline.teachers.protocol": "Teacher TrainableTeacher TeacherFacts normalise targets",
    "pipeline.teachers.source": "Source",
    "pipeline.teachers.tapped": "TappedTeacher load_tapped",
    "pipeline.teachers.weights": "DefaultWeights WeightsInfo net_with_weights net_of_shape",
    "student.clip_dataset": "ClipDataset ClipItem",
}
"""What plug-ins, own trainers and published store cards import; nothing else is promised."""


@pytest.mark.parametrize("module", PUBLIC)
def test_what_others_import_stays_where_it_is(module: str) -> None:
    found = importlib.import_module(f"egoctl.{module}")

    assert [name for name in PUBLIC[module].split() if not hasattr(found, name)] == []


def test_the_pages_import_nothing_that_is_not_promised() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    lines = re.findall(
        r"^from egoctl\.([\w.]+) import (.+)$",
        "\n".join(page.read_text(encoding="utf-8") for page in pages),
        re.MULTILINE,
    )

    assert len(lines) >= 6
    for module, names in lines:
        assert set(names.split(", ")) <= set(PUBLIC[module].split()), f"{module}: {names}"

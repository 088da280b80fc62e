"""The documents name commands, options and files that exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from egoctl.cli import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("manifests/*.md")]
)
COMMAND = re.compile(r"^\s*(?:\$ )?(egoctl .+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def commands_of(document: Path) -> list[str]:
    return COMMAND.findall(document.read_text())


@pytest.mark.parametrize(
    ("document", "line"),
    [(d.relative_to(ROOT).as_posix(), line) for d in DOCUMENTS for line in commands_of(d)],
)
def test_a_command_in_a_document_has_the_options_it_is_shown_with(document, line):
    command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{document}: no command {line!r}"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options, f"{document}: {line!r}"


@pytest.mark.parametrize(
    ("document", "target"),
    [(d.relative_to(ROOT).as_posix(), t) for d in DOCUMENTS for t in LINK.findall(d.read_text())],
)
def test_a_link_leads_to_a_file(document, target):
    assert (ROOT / document).parent.joinpath(target).exists()


def test_the_readme_shows_the_main_job_and_its_tree_is_real():
    readme = (ROOT / "README.md").read_text()

    assert {"extract-teacher", "train-student", "evaluate"} <= {
        line.split()[1] for line in commands_of(ROOT / "README.md")
    }
    tree = readme.split("## The way of one clip")[1].split("```")[1]
    folder = ""
    for line in tree.strip().splitlines():
        if not line.startswith(" "):
            folder = line.split()[0] if line.split()[0].endswith("/") else ""
        for name in re.findall(r"[a-z_]+\.py", line):
            assert (ROOT / folder / name).is_file() or (ROOT / name).is_file(), name


def test_no_placeholder_is_left_in_a_document():
    for document in DOCUMENTS:
        assert not re.search(r"@[A-Z_]+@|TODO|TBD", document.read_text()), document


def test_the_example_annotations_make_a_manifest(tmp_path):
    from egoctl.pipeline.datasets.folder import FolderSource, read_annotations
    from egoctl.pipeline.manifest import WINDOW_S

    source = FolderSource(videos=tmp_path, imu=tmp_path / "imu", window_s=WINDOW_S, stride_s=None)
    manifest = read_annotations(
        ROOT / "manifests" / "example_ann.csv", source, manifest_folder=tmp_path
    )

    assert manifest.class_names == ("open fridge", "take milk")
    assert [segment.imu_path for segment in manifest.segments] == [
        "day1/GX010001.MP4", "day1/GX010001.MP4", "imu/day2/aria.csv", None, None,
    ]  # fmt: skip
    assert [segment.label for segment in manifest.segments] == [0, 1, 0, 1, None]

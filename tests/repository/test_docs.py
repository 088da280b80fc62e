"""The documents name commands, options and files that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from egoctl.cli import app
from egoctl.tests.worlds.places import ROOT

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("manifests/*.md")]
)
COMMAND = re.compile(r"^\s*(?:\$ )?(egoctl .+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
PATH = re.compile(r"(?<![\w/.-])(?:pipeline|student|tests|manifests|docs)/[\w./-]*")
MODULE = re.compile(r"\begoctl\.(?:pipeline|student|tests)(?:\.\w+)+")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command of egoctl that does something, as typed, with its click command."""
    left = [("egoctl", typer.main.get_command(app))]
    while left:
        name, command = left.pop()
        if hasattr(command, "commands"):
            left += [(f"{name} {word}", found) for word, found in command.commands.items()]
        else:
            yield name, command


def options_of(command: Any) -> set[str]:
    """All spellings of a command's options."""
    names = [name for p in command.params for name in (*p.opts, *p.secondary_opts)]
    return {name for name in names if name.startswith("--")} | {"--help"}


def anchors_of(text: str) -> set[str]:
    """What links may name in a page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


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
    found = {word for word in words if word.startswith("--")}
    assert found <= options_of(command), f"{document}: {line!r}"


@pytest.mark.parametrize("name", sorted(name for name, _ in all_commands()))
def test_every_command_is_told_of_in_the_readme_or_the_page_on_sharing(name):
    pages = (ROOT / "README.md", ROOT / "docs" / "share.md")

    assert any(re.search(rf"{name}\b", page.read_text()) for page in pages)


@pytest.mark.parametrize("document", [d.relative_to(ROOT).as_posix() for d in DOCUMENTS])
def test_an_option_that_a_document_names_is_one_of_ours(document):
    commands = [typer.main.get_command(app), *(command for _, command in all_commands())]
    ours = set().union(*map(options_of, commands))
    # Read, not imported: the benchmarks load torch.
    for script in ("__main__.py", "scale.py", "classyglass.py"):
        ours |= set(OPTION.findall((ROOT / "tests" / "benchmarks" / script).read_text()))
    # Slurm's own, torchrun's, and the command that its own test runs as the page shows it.
    others = re.compile(
        r"^(#SBATCH|    torchrun|    python -m egoctl\.tests\.benchmarks\.scale).*$", re.MULTILINE
    )
    text = others.sub("", (ROOT / document).read_text())

    assert set(OPTION.findall(text)) - ours == set()


def test_every_option_of_extraction_is_told_of():
    told = {name for page in DOCUMENTS for name in OPTION.findall(page.read_text())}
    (extraction,) = (c for name, c in all_commands() if name == "egoctl extract-teacher")

    assert options_of(extraction) <= told


@pytest.mark.parametrize(
    ("document", "target", "anchor"),
    [
        (d.relative_to(ROOT).as_posix(), *link)
        for d in DOCUMENTS
        for link in LINK.findall(d.read_text())
    ],
)
def test_a_link_leads_to_a_file_and_to_a_heading_in_it(document, target, anchor):
    page = (ROOT / document).parent / target if target else ROOT / document

    assert page.exists()
    assert not anchor or anchor in anchors_of(page.read_text())


def test_the_readme_shows_the_main_job_and_its_tree_is_real():
    readme = (ROOT / "README.md").read_text()

    assert {"extract-teacher", "train-student", "evaluate"} <= {
        line.split()[1] for line in commands_of(ROOT / "README.md")
    }
    listed: set[str] = set()
    folder = ""
    for line in readme.split("## The way of one clip")[1].split("```")[1].strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
        listed.add(name if not line.startswith(" ") else folder + name)
    assert [path for path in listed if not (ROOT / path).exists()] == []
    rooms = {f"{side}/{room.parent.name}/" for side in ("pipeline", "student")
             for room in (ROOT / side).glob("*/__init__.py")}  # fmt: skip
    assert rooms <= listed


@pytest.mark.parametrize("document", [d.relative_to(ROOT).as_posix() for d in DOCUMENTS])
def test_a_path_or_module_that_a_document_names_is_there(document):
    text = (ROOT / document).read_text()
    paths = {path.rstrip(".") for path in PATH.findall(text)}

    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [name for name in MODULE.findall(text) if not is_module_or_in_one(name)] == []


def is_module_or_in_one(name: str) -> bool:
    """Whether egoctl.a.b is a module, or b a word of the module egoctl.a."""
    path = ROOT.joinpath(*name.split(".")[1:])
    of_parent = [path.parent.with_suffix(".py"), path.parent / "__init__.py"]
    return (
        path.is_dir()
        or path.with_suffix(".py").is_file()
        or any(re.search(rf"\b{path.name}\b", f.read_text()) for f in of_parent if f.is_file())
    )


def test_no_placeholder_is_left_in_a_document():
    for document in DOCUMENTS:
        assert not re.search(r"@[A-Z_]+@|TODO|TBD", document.read_text()), document


def test_the_example_annotations_make_a_manifest(tmp_path):
    from egoctl.pipeline.datasets.folder import FolderSource, read_annotations
    from egoctl.pipeline.records import WINDOW_S

    source = FolderSource(videos=tmp_path, imu=tmp_path / "imu", window_s=WINDOW_S, stride_s=None)
    manifest = read_annotations(
        ROOT / "manifests" / "example_ann.csv", source, manifest_folder=tmp_path
    )

    assert manifest.class_names == ("open fridge", "take milk")
    assert [segment.imu_path for segment in manifest.segments] == [
        "day1/GX010001.MP4", "day1/GX010001.MP4", "imu/day2/aria.csv", None, None,
    ]  # fmt: skip
    assert [segment.label for segment in manifest.segments] == [0, 1, 0, 1, None]

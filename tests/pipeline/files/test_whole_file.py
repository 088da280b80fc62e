"""A file that is written whole: readers see the old one or the new one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from egoctl.pipeline.files.whole_file import whole_file, write_whole

KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from egoctl.pipeline.files.whole_file import whole_file

with whole_file(Path(sys.argv[1])) as part:
    part.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_text_is_utf8_and_bytes_are_themselves(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "naïve\n")
    write_whole(tmp_path / "b.bin", b"\x00\xff")

    assert (tmp_path / "a.txt").read_bytes() == b"na\xc3\xafve\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.bin"]


def test_the_old_file_is_seen_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    with whole_file(file) as part:
        part.write_text("new")
        assert part.parent == tmp_path and part.name == f".a.txt.{os.getpid()}.part"
        assert file.read_text() == "old"

    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    with pytest.raises(ValueError, match="no more"), whole_file(file) as part:
        part.write_text("half")
        raise ValueError("no more")

    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    with pytest.raises(FileNotFoundError), whole_file(file):
        pass

    assert file.read_text() == "old"


def test_a_process_killed_halfway_leaves_the_old_file_and_its_part_is_never_read(
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    done = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, str(file)], check=False)

    assert done.returncode == -9
    (left,) = [found for found in tmp_path.iterdir() if found != file]
    assert left.name.startswith(".a.txt.") and left.suffix == ".part"
    assert file.read_text() == "old"
    write_whole(file, "new")
    assert file.read_text() == "new"
    assert left.read_text() == "half of the n"

"""The arithmetic of docs/scale.md, and that the page holds what it prints."""

import re
import shlex

import pytest

from egoctl.pipeline.extraction.plan import StoreConfig
from egoctl.tests.benchmarks.scale import Workload, decode_core_hours, gpu_hours, main
from egoctl.tests.benchmarks.scale_inputs import PartBytes, part_bytes
from egoctl.tests.worlds.places import ROOT

PAGE = ROOT / "docs" / "scale.md"
ONE_HOUR = Workload(name="an hour", num_frames=108_000, num_clips=3_600)


def test_an_hour_at_30_frames_a_second_takes_a_core_that_decodes_60_half_an_hour() -> None:
    assert decode_core_hours(ONE_HOUR, 60.0) == 0.5


def test_a_mac_is_two_operations_of_the_share_of_the_peak_that_is_reached() -> None:
    # 3,600 clips x 494.5 GMAC x 2 = 3.5604e15; half of 989e12 a second does that in 7.2 s.
    assert gpu_hours(ONE_HOUR, 494.5, 0.5) == pytest.approx(7.2 / 3600)


def test_a_part_has_the_bytes_of_its_values_and_a_little_more() -> None:
    rows = StoreConfig().part_rows

    found = part_bytes(jpeg_bytes=10_000)

    for kind, array, row_bytes in (
        ("teacher", "feature", 768 * 2),
        ("teacher", "logits", 397 * 2),
        ("inputs", "frames", 3 * 10_000),
        ("inputs", "frame_time", 3 * 8),
        ("inputs", "imu", 422 * 6 * 4),
        ("inputs", "imu_mean", 6 * 4),
    ):
        assert 0 < found[kind].shards[array] - rows * row_bytes < 16_000, array
    assert isinstance(found["teacher"], PartBytes)


def test_the_page_holds_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text()
    commands = re.findall(r"^ +python -m egoctl.tests.benchmarks.scale (--.+)$", text, re.MULTILINE)
    assert len(commands) == 1, "the page shows the one command that calculates its tables"

    main(shlex.split(commands[0]))

    printed = capsys.readouterr().out.strip()
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(tables) > 20
    assert "\n".join(tables[:5]) in text
    assert [line for line in tables if line not in text.splitlines()] == []

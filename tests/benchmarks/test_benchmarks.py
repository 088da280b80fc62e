"""The benchmarks measure what they say, in turns, and keep every value."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.reading.clip_job import ClipSource, Job
from egoctl.pipeline.records import Clip
from egoctl.tests.benchmarks import storage
from egoctl.tests.benchmarks.__main__ import BENCHMARKS, main, markdown_lines, text_lines
from egoctl.tests.benchmarks.decoding import num_cut_videos, num_spanned
from egoctl.tests.benchmarks.figures import (
    Figure,
    Sample,
    Setup,
    alternate,
    seconds_ratios,
    shown,
)
from egoctl.tests.benchmarks.measured_process import measured

MIB = 2**20
FIGURES = (
    Figure(
        benchmark="decoding",
        name="decoded / spanned",
        unit="ratio",
        values=(1.04, 1.0, 1.5),
        aim="<= 1.05",
    ),
    Figure(benchmark="decoding", name="PyAV alone", unit="frames/s", values=(1234.5,)),
)


def span(start_s: float, stop_s: float, *, video: str = "v.mp4") -> ClipSource:
    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=start_s, stop_s=stop_s)
    return ClipSource(clip=clip, video=MediaFile(url=video), imu=None)


def test_what_is_compared_is_run_in_turns() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return len(order)

    samples = alternate({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=3)

    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [sample.amount for sample in samples["b"]] == [2, 4, 6]


def test_a_ratio_is_taken_within_each_round_so_a_slow_minute_cancels_out() -> None:
    whole = [Sample(amount=1, seconds=3.3), Sample(amount=1, seconds=33.0)]
    parts = [
        [Sample(amount=1, seconds=1.0), Sample(amount=1, seconds=10.0)],
        [Sample(amount=1, seconds=2.0), Sample(amount=1, seconds=20.0)],
    ]

    assert seconds_ratios(whole, *parts) == pytest.approx((1.1, 1.1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.00213, "0.00213"), (1.0449, "1.04"), (10.96, "11.0"), (104.4, "104"),
        (999.9, "1,000"), (41_349.0, "41,300"), (1_234_567.0, "1,230,000"),
    ],
)  # fmt: skip
def test_values_are_shown_with_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_a_table_shows_median_spread_and_aim() -> None:
    assert list(text_lines("decoding", FIGURES)) == [
        "decoding",
        "  figure             median  min to max    unit      aim",
        "  decoded / spanned  1.04    1.00 to 1.50  ratio     <= 1.05",
        "  PyAV alone         1,230   one value     frames/s",
    ]


def test_the_markdown_is_a_table_of_the_same_cells() -> None:
    assert list(markdown_lines("decoding", FIGURES)) == [
        "### decoding",
        "",
        "| figure | median | min to max | unit | aim |",
        "| --- | ---: | --- | --- | --- |",
        "| decoded / spanned | 1.04 | 1.00 to 1.50 | ratio | <= 1.05 |",
        "| PyAV alone | 1,230 | one value | frames/s |  |",
    ]


def test_a_frame_that_several_clips_span_counts_once() -> None:
    times_s = np.arange(10.0)

    # Frames 1 and 2; then 2, 3 and 4; then 8, as the end is exclusive.
    assert num_spanned(times_s, [span(1, 3), span(2, 5), span(8, 9)]) == 5


def test_a_part_that_ends_with_its_video_cuts_none() -> None:
    a, b = span(0, 1, video="a.mp4"), span(0, 1, video="b.mp4")
    jobs = [
        Job(number=number, sources=sources, views={})
        for number, sources in enumerate([[a, a], [a], [b], [b]])
    ]

    # Between the first two jobs, and between the last two.
    assert num_cut_videos(jobs) == 2


def test_a_command_is_not_charged_for_the_memory_of_the_benchmark() -> None:
    held = np.ones(300 * MIB, dtype=np.uint8)

    usage = measured([sys.executable, "-c", "print('done')"])

    assert held.nbytes == 300 * MIB
    assert usage.output == "done\n"
    assert 1 * MIB < usage.peak_bytes < 100 * MIB


def test_a_command_is_charged_for_its_own_memory() -> None:
    usage = measured([sys.executable, "-c", f"held = b'1' * {200 * MIB}"])

    assert usage.peak_bytes > 200 * MIB


def test_a_command_that_fails_ends_the_benchmark_with_its_exit_code() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        measured([sys.executable, "-c", "raise SystemExit(3)"])


def test_every_value_is_kept_for_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BENCHMARKS, "decoding", lambda setup: list(FIGURES))

    main(["decoding", "--json", str(tmp_path / "found.json")])

    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["num_cores"] >= 1
    assert found["repeats"] == 3
    assert found["figures"][0]["values"] == [1.04, 1.0, 1.5]
    assert "<= 1.05" in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["deocding"])

    assert "no benchmark deocding; there are extraction, decoding" in capsys.readouterr().err


def test_the_storage_benchmark_compares_each_job_with_plain_files(tmp_path: Path) -> None:
    figures = storage.run(Setup(folder=tmp_path, repeats=2, is_quick=True))

    names = [figure.name for figure in figures if figure.unit == "ratio of seconds"]
    assert names == [
        "write a part of 512 x 768 float16, store / plain .npy",
        "read all 2,048 x 768 float16, store / plain .npy",
    ]
    assert all(len(figure.values) == 2 and min(figure.values) > 0 for figure in figures)

"""Progress: plain lines for a log, a bar for a terminal."""

import io

import pytest

from egoctl.pipeline import progress
from egoctl.pipeline.progress import Progress


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(100, title="extract", unit="clip") as bar:
        for _ in range(5):
            clock.now_s += 4
            bar.advance(20)

    assert capsys.readouterr().err.splitlines() == [
        "extract: 60/100 clips, 5.0 clips/s, 8 s left",  # after 12 s; 4 and 8 s were too early
        "extract: 100/100 clips, 5.0 clips/s",
    ]


def test_nothing_is_printed_where_results_go(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(1, title="check", unit="video") as bar:
        clock.now_s += 20
        bar.advance()

    assert capsys.readouterr().out == ""


def test_without_any_item_there_is_no_rate_to_divide_by(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(0, title="check", unit="video"):
        pass

    assert capsys.readouterr().err == "check: 0/0 videos, 0.0 videos/s\n"


def test_a_failure_ends_it_without_a_line_that_looks_like_success(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), Progress(10, title="extract", unit="clip") as bar:
        bar.advance(3)
        raise KeyboardInterrupt

    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_no_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    with Progress(4, title="extract", unit="clip") as bar:
        clock.now_s += 60
        bar.advance(4)

    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("extract: 100%")
    assert "4/4" in last
    assert "clips/s" not in terminal.getvalue()


def test_a_caller_may_tell_where_it_is_and_what_the_total_is(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(0, title="render", unit="video") as bar:
        clock.now_s += 10
        bar.reach(2, 8)
        clock.now_s += 2
        bar.reach(3, 8)

    assert capsys.readouterr().err.splitlines() == [
        "render: 2/8 videos, 0.2 videos/s, 30 s left",
        "render: 3/8 videos, 0.2 videos/s, 20 s left",
    ]

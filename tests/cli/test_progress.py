import io
import threading
from datetime import timedelta

import pytest

from stages.runtime.monitor import Monitor, SilentMonitor
from toco_cli.progress import RichMonitor


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def train(monitor: Monitor, clock: Clock, steps: int = 100, done: int = 0) -> None:
    """Advance by one step per second."""
    monitor.start("training", done + steps, done=done, unit="steps")
    for step in range(steps):
        clock.now += 1.0
        monitor.advance(loss=1 / (step + 1), loss_ptc=0.0625)
    monitor.finish()


def test_rich_monitor__a_log_file_gets_a_line_at_start_at_end_and_every_half_minute() -> None:
    stream, clock = io.StringIO(), Clock()
    train(RichMonitor(stream=stream, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "training: 100 steps",
        "training: 30/100 steps, 1 steps/s, 0:01:10 left, loss 0.033, loss ptc 0.062",
        "training: 60/100 steps, 1 steps/s, 0:00:40 left, loss 0.017, loss ptc 0.062",
        "training: 90/100 steps, 1 steps/s, 0:00:10 left, loss 0.011, loss ptc 0.062",
        "training: 100/100 steps (1 steps/s) in 0:01:40, loss 0.010, loss ptc 0.062",
    ]


def test_rich_monitor__a_log_file_gets_no_control_characters_even_if_colour_is_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream, clock = io.StringIO(), Clock()
    train(RichMonitor(stream=stream, clock=clock), clock)
    assert stream.getvalue().replace("\n", "").isprintable()


def test_rich_monitor__what_was_done_before_does_not_count_for_the_rate() -> None:
    stream, clock = io.StringIO(), Clock()
    train(RichMonitor(stream=stream, clock=clock), clock, steps=40, done=1000)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training: 1040 steps (1000 done already)"
    assert lines[1].startswith("training: 1030/1040 steps, 1 steps/s, 0:00:10 left")


def test_rich_monitor__nothing_left_to_do_has_no_rate() -> None:
    stream = io.StringIO()
    monitor = RichMonitor(stream=stream, clock=Clock())
    monitor.start("making labels", 24, done=24)
    monitor.finish()
    assert stream.getvalue().splitlines() == [
        "making labels: 24 images (24 done already)",
        "making labels: 24/24 images, done already",
    ]


def test_rich_monitor__the_rate_is_that_of_the_last_minute() -> None:
    stream, clock = io.StringIO(), Clock()
    monitor = RichMonitor(stream=stream, clock=clock)
    monitor.start("making labels", 10_000)
    for seconds in [10.0] * 30 + [0.5] * 400:
        clock.now += seconds
        monitor.advance()
    assert "2 images/s" in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize("seconds", [40.0, 70.0])  # within the window of the rate, and beyond it
def test_rich_monitor__the_first_step_does_not_count_for_the_rate(seconds: float) -> None:
    stream, clock = io.StringIO(), Clock()
    monitor = RichMonitor(stream=stream, clock=clock)
    monitor.start("making CAMs", 100)
    clock.now += 1000.0
    monitor.advance(4)
    clock.now += seconds
    monitor.advance(4)
    assert stream.getvalue().splitlines()[1:] == [
        "making CAMs: 4/100 images",
        f"making CAMs: 8/100 images, {4 / seconds:.3g} images/s, {timedelta(seconds=round(23 * seconds))} left",
    ]


def test_rich_monitor__a_terminal_sees_bar_counts_pace_and_figures() -> None:
    stream, clock = Terminal(), Clock()
    monitor = RichMonitor(stream=stream, clock=clock)
    monitor.start("training [x]", 10, unit="steps")
    clock.now += 2.0
    monitor.advance(loss=0.5)
    drawn = stream.getvalue()
    assert "training [x]" in drawn
    assert "1/10 steps" in drawn
    assert "left" not in drawn  # the first step tells little
    assert "loss 0.500" in drawn
    assert "\x1b[?25l" in drawn  # the cursor is hidden ...
    clock.now += 1.0
    monitor.advance()
    assert "2/10 steps, 1 steps/s, 0:00:08 left" in stream.getvalue()
    monitor.finish()
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")  # ... and comes back
    assert stream.getvalue().endswith("training [x]: 2/10 steps (0.667 steps/s) in 0:00:03, loss 0.500\n")


def test_rich_monitor__a_failing_stage_gives_the_cursor_back() -> None:
    def fail(monitor: RichMonitor) -> None:
        with monitor:
            monitor.start("training", 10)
            raise OSError("broken")

    stream = Terminal()
    with pytest.raises(OSError, match="broken"):
        fail(RichMonitor(stream=stream))
    assert "\x1b[?25h" in stream.getvalue()


def test_rich_monitor__a_terminal_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream, clock = Terminal(), Clock()
    train(RichMonitor(stream=stream, clock=clock), clock, steps=3)
    assert "\x1b[3" not in stream.getvalue()
    assert "\x1b[9" not in stream.getvalue()


def test_rich_monitor__a_narrow_terminal_keeps_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    stream, clock = Terminal(), Clock()
    train(RichMonitor(stream=stream, clock=clock), clock, steps=3)
    assert "3/3 steps, 1 steps/s" in stream.getvalue()


@pytest.mark.parametrize("stream_class", [io.StringIO, Terminal])
def test_rich_monitor__notes_and_warnings_are_shown_as_they_are(stream_class: type[io.StringIO]) -> None:
    stream = stream_class()
    with RichMonitor(stream=stream) as monitor:
        monitor.start("training", 10)
        monitor.note("mIoU 0.5 [bold]x[/red] :smile:")
        monitor.warn("12 images have no row")
    assert "mIoU 0.5 [bold]x[/red] :smile:" in stream.getvalue()
    assert "warning: 12 images have no row" in stream.getvalue()


@pytest.mark.parametrize("stream_class", [io.StringIO, Terminal])
def test_rich_monitor__quiet_shows_warnings_only(stream_class: type[io.StringIO]) -> None:
    stream, clock = stream_class(), Clock()
    monitor = RichMonitor(quiet=True, stream=stream, clock=clock)
    train(monitor, clock)
    monitor.note("mIoU 0.5")
    monitor.warn("12 images have no row")
    assert stream.getvalue() == "warning: 12 images have no row\n"


def test_rich_monitor__stderr_unless_said_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    train(RichMonitor(), Clock(), steps=3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3/3 steps" in captured.err


def test_rich_monitor__figures_stay_readable() -> None:
    stream, clock = io.StringIO(), Clock()
    with RichMonitor(stream=stream, clock=clock) as monitor:
        monitor.start("training", 1)
        monitor.advance(rate=6e-5, loss=float("nan"), pixels=123_456.0)
    assert stream.getvalue().endswith("rate 6e-05, loss nan, pixels 1.23e+05\n")


@pytest.mark.parametrize("stream_class", [io.StringIO, Terminal])
def test_rich_monitor__shows_the_loss_and_the_first_three_parts_that_are_not_zero(
    stream_class: type[io.StringIO],
) -> None:
    stream, clock = stream_class(), Clock()
    with RichMonitor(stream=stream, clock=clock) as monitor:
        monitor.start("training", 2)
        monitor.advance(loss=0.75, classification=0.5, ptc=0.0, ctc=0.0, segmentation=0.25)
        clock.now += 30.0
        monitor.advance(loss=0.5)
        assert "loss 0.500, classification 0.500, segmentation 0.250" in stream.getvalue()
        assert "ctc" not in stream.getvalue()
        clock.now += 30.0
        monitor.advance(ptc=0.125, ctc=0.0625)
        assert "loss 0.500, classification 0.500, ptc 0.125, ctc 0.062" in stream.getvalue()
    assert stream.getvalue().count("segmentation") == 1


def test_rich_monitor__a_new_task_ends_the_one_before() -> None:
    stream = io.StringIO()
    with RichMonitor(stream=stream) as monitor:
        monitor.start("one", 3)
        monitor.start("two", 4)
    monitor.finish()
    titles = [line.split(":")[0] for line in stream.getvalue().splitlines()]
    assert titles == ["one", "one", "two", "two"]


def test_rich_monitor__starts_no_thread() -> None:
    before = threading.active_count()
    with RichMonitor(stream=Terminal()) as monitor:
        monitor.start("making labels", 2)
        monitor.advance()
        assert threading.active_count() == before


def test_rich_monitor__an_empty_task() -> None:
    for stream in (io.StringIO(), Terminal()):
        with RichMonitor(stream=stream) as monitor:
            monitor.start("making labels", 0)
        assert "making labels: 0/0 images" in stream.getvalue()


def test_rich_monitor__advance_before_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="before start"):
        RichMonitor(stream=io.StringIO()).advance()


def test_silent_monitor__says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    train(SilentMonitor(), Clock())
    assert capsys.readouterr() == ("", "")

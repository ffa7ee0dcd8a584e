"""What a person sees of a run, on a terminal and in a log."""

import io
import logging
import re
import threading

import pytest

from hubconv.progress import (
    Extent,
    LineProgress,
    SilentProgress,
    TerminalProgress,
    choose_progress,
    printable,
    text_bar,
)
from hubconv.progress.tally import LUMP_BYTES, Lumps
from hubconv.quantities import human_bytes, human_rate, human_time


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Screen(io.StringIO):
    """A terminal that remembers what stands on it."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def lines(self):
        shown: list[list[str]] = [[]]
        row = column = 0
        for part in re.split("(\r|\n|\x1b\\[A|\x1b\\[J)", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                shown += [[]] * (row == len(shown))
            elif part == "\x1b[A":
                row -= 1
            elif part == "\x1b[J":
                shown = [*shown[:row], shown[row][:column]]
            else:
                shown[row][column : column + len(part)] = part
                column += len(part)
        return ["".join(cells).rstrip() for cells in shown]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_shows_one_status_line_with_rate_and_time_left():
    clock, screen = Clock(), Screen()
    progress = TerminalProgress(screen, clock, width=lambda: 100)
    progress.phase("convert")
    progress.plan(Extent(64, 865_000_000_000), Extent(3, 40_000_000_000))
    for _ in range(10):
        clock.now += 1
        progress.converted(1_000_000_000)
    progress.unit_finished("model-00004.safetensors", 12_000_000_000, 10.0)
    assert screen.lines() == [
        "convert █░░░░░░░░░░░░░░░░░░░░░░░  4/64 shards  50.0 GB of 865 GB"
        "  13 min 35 s left  1.00 GB/s"
    ]


def on_a_line(screen, clock, columns=100):
    """A run of ten seconds from Hub to Hub, a tenth of it done by an earlier one."""
    progress = TerminalProgress(screen, clock, width=lambda: columns)
    progress.phase("Converting")
    progress.plan(Extent(10, 1_000_000_000, 600_000_000), Extent(1, 100_000_000, 60_000_000))
    for _ in range(10):
        clock.now += 1
        progress.passed("fetch", 50_000_000)
        progress.converted(40_000_000)
        progress.passed("upload", 20_000_000)
    progress.unit_finished("model-00002.safetensors", 60_000_000, 5.0)
    return progress


def test_a_run_from_hub_to_hub_shows_a_bar_for_each_stage():
    screen = Screen()
    progress = on_a_line(screen, Clock())
    assert screen.lines() == [
        "Converting  2/10 shards",
        "fetch   ██████████████░░░░░░░░░░  600 MB of 1.00 GB  8 s left  50.0 MB/s",
        "convert ████████████░░░░░░░░░░░░  500 MB of 1.00 GB  12 s left  40.0 MB/s",
        "upload  ██████████░░░░░░░░░░░░░░  260 MB of 600 MB  17 s left  20.0 MB/s",
    ]
    progress.note("resumed")
    progress.phase("Verifying")
    assert screen.lines()[0] == "resumed"
    assert screen.lines()[1] == "Verifying  2/10 shards"
    assert len(screen.lines()) == 5
    progress.close()
    assert screen.lines() == ["resumed", ""]


def test_what_is_logged_stands_above_the_bars_and_nothing_of_it_is_lost(monkeypatch):
    screen = Screen()
    handler = logging.StreamHandler(screen)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    progress = choose_progress(screen)
    assert isinstance(progress, TerminalProgress)
    progress.phase("Converting")
    progress.plan(Extent(10, 1_000_000_000, 600_000_000))
    progress.passed("fetch", 50_000_000)
    for number in range(3):
        logging.getLogger("hubconv").error("shard %d by xet\nand a second line", number)
    shown = screen.lines()
    assert shown[:6] == ["shard 0 by xet", "and a second line", "shard 1 by xet",
                         "and a second line", "shard 2 by xet", "and a second line"]  # fmt: skip
    assert [line.split()[0] for line in shown[6:]] == ["Converting", "fetch", "convert", "upload"]
    progress.close()
    assert handler.stream is screen


@pytest.mark.parametrize("columns", [20, 33, 47, 60, 80, 200])
def test_bars_fit_the_terminal(columns):
    screen = Screen()
    on_a_line(screen, Clock(), columns)
    assert len(screen.lines()) == 4
    assert max(len(line) for line in screen.lines()) < columns


def test_what_came_in_vain_is_taken_back_and_twice_is_no_more_than_all():
    clock, screen = Clock(), Screen()
    progress = on_a_line(screen, clock)
    clock.now += 1
    progress.passed("upload", -260_000_000)
    assert "  0 B of 600 MB" in screen.lines()[3]
    clock.now += 1
    progress.passed("fetch", 5_000_000_000)
    assert "  1.00 GB of 1.00 GB  0 s left" in screen.lines()[1]


def test_a_log_sums_up_all_stages():
    clock, log = Clock(), io.StringIO()
    progress = LineProgress(log, clock)
    progress.plan(Extent(10, 10_000_000_000, 600_000_000))
    for _ in range(29):
        clock.now += 1
        progress.passed("fetch", 30_000_000)
        progress.converted(15_000_000)
        progress.passed("upload", 6_000_000)
    assert "fetch" not in log.getvalue()
    clock.now += 1
    progress.converted(0)
    assert log.getvalue().splitlines()[-1] == (
        "0/10 shards; fetch 870 MB of 10.0 GB, 5 min 15 s left, 29.0 MB/s; "
        "convert 435 MB of 10.0 GB, 11 min 00 s left, 14.5 MB/s; "
        "upload 174 MB of 600 MB, 1 min 13 s left, 5.80 MB/s"
    )


def test_the_rate_is_that_of_the_last_minute():
    clock, log = Clock(), io.StringIO()
    progress = LineProgress(log, clock)
    progress.plan(Extent(1, 10_000_000_000))
    for _ in range(120):
        clock.now += 1
        progress.converted(1_000_000)
    for _ in range(60):
        clock.now += 1
        progress.converted(10_000_000)
    assert log.getvalue().splitlines()[-1].endswith("10.0 MB/s")


@pytest.mark.parametrize("columns", [20, 33, 47, 60, 80, 200])
def test_the_status_line_fits_the_terminal(columns):
    clock, screen = Clock(), Screen()
    progress = TerminalProgress(screen, clock, width=lambda: columns)
    progress.phase("convert")
    progress.plan(Extent(64, 865_000_000_000))
    clock.now += 5
    progress.converted(5_000_000_000)
    assert max(len(line) for line in screen.lines()) < columns


def test_notes_print_above_the_status_line_and_leave_no_rest_of_it():
    screen = Screen()
    progress = TerminalProgress(screen, Clock(), width=lambda: 80)
    progress.phase("convert")
    progress.plan(Extent(2, 2_000_000))
    progress.note("resumed")
    progress.warn("the source has moved")
    shown = screen.lines()
    assert shown[:2] == ["resumed", "\x1b[33mWarning: the source has moved\x1b[0m"]
    assert shown[2].startswith("convert ░")
    progress.close()
    assert screen.lines()[-1] == ""


def test_no_color_takes_the_colour_away(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    TerminalProgress(screen, Clock(), width=lambda: 80).warn("careful")
    assert "\x1b" not in screen.getvalue()


def test_a_stream_without_block_characters_gets_a_plain_bar():
    screen = Screen()
    screen.encoding = "ascii"
    progress = TerminalProgress(screen, Clock(), width=lambda: 100)
    progress.plan(Extent(2, 100), Extent(1, 50))
    assert screen.getvalue().isascii()
    assert "############............" in screen.getvalue()


def test_redraws_are_rare():
    clock, screen = Clock(), Screen()
    progress = TerminalProgress(screen, clock, width=lambda: 80)
    progress.plan(Extent(1, 10_000))
    before = len(screen.getvalue())
    for _ in range(1000):
        progress.converted(1)
    assert before == len(screen.getvalue())


def test_a_log_has_a_line_at_both_ends_of_a_shard_and_a_summary_twice_a_minute():
    clock, log = Clock(), io.StringIO()
    progress = LineProgress(log, clock)
    progress.phase("convert")
    progress.plan(Extent(3, 300_000_000), Extent(1, 100_000_000))
    progress.unit_started("a.safetensors")
    for _ in range(65):
        clock.now += 1
        progress.converted(1_000_000)
    progress.unit_finished("a.safetensors", 60_000_000, 65)
    progress.note("done")
    progress.warn("large")
    progress.close()
    assert log.getvalue().splitlines() == [
        "convert",
        "3 shards from 300 MB, 1 done already",
        "a.safetensors ...",
        "1/3 shards  130 MB of 300 MB  2 min 50 s left  1.00 MB/s",
        "1/3 shards  160 MB of 300 MB  2 min 20 s left  1.00 MB/s",
        "a.safetensors done: 60.0 MB in 1 min 05 s (2/3)",
        "done",
        "Warning: large",
    ]


def test_a_unit_made_twice_does_not_take_the_count_past_its_end():
    screen = Screen()
    progress = TerminalProgress(screen, Clock(), width=lambda: 80)
    progress.plan(Extent(1, 100))
    progress.converted(100)
    progress.converted(100)
    progress.note("again")
    assert "100 B of 100 B" in screen.lines()[-1]


def test_names_cannot_steer_the_terminal_or_the_runner():
    log = io.StringIO()
    progress = LineProgress(log, Clock(), actions=True)
    progress.note("a\n::set-output name=x::y\x1b[2J\u202e ##[error]z")
    progress.warn("50 %\n::error::x")
    assert log.getvalue().splitlines() == [
        "a : :set-output name=x: :y [2J  ## [error]z",
        "::warning::50 %25 ::error::x",
    ]


def test_threads_lose_no_count():
    log = io.StringIO()
    progress = LineProgress(log, Clock())
    progress.plan(Extent(8, 8000))

    def work():
        for _ in range(1000):
            progress.converted(1)
        progress.unit_finished("s", 1, 0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.getvalue().splitlines()[-1] == "s done: 1 B in 0 s (8/8)"


def test_the_stream_decides(monkeypatch):
    assert type(choose_progress(Screen())) is TerminalProgress
    assert type(choose_progress(io.StringIO())) is LineProgress
    assert type(choose_progress(Screen(), quiet=True)) is SilentProgress
    assert type(choose_progress(io.StringIO(), json=True)) is SilentProgress
    monkeypatch.setenv("TERM", "dumb")
    assert type(choose_progress(Screen())) is LineProgress


def test_silence_is_silent(capsys):
    progress = SilentProgress()
    progress.phase("x")
    progress.plan(Extent(1, 1))
    progress.unit_started("x")
    progress.converted(1)
    progress.unit_finished("x", 1, 1)
    progress.note("x")
    progress.warn("x")
    progress.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (864_700_000_000, "865 GB"),
        (2e18, "2000 PB"),
    ],
)
def test_bytes_in_words(count, words):
    assert words == human_bytes(count)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (1.25, "1.2 s"),
        (45.4, "45 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (183_600, "2 d 03 h"),
    ],
)
def test_time_in_words(seconds, words):
    assert words == human_time(seconds)


def test_rates_bars_and_lines():
    assert human_rate(1_200_000_000) == "1.20 GB/s"
    assert text_bar(0.5, 4) == "██"
    assert text_bar(0.001, 4) == "█"
    assert text_bar(7, 4) == "████"
    assert printable("a\tb\u2028c\x7f") == "a b c "


def test_bytes_are_told_in_lumps():
    told = []
    lumps = Lumps(lambda stage, nbytes: told.append((stage, nbytes)))
    for _ in range(3):
        lumps.passed("fetch", LUMP_BYTES // 2)
        lumps.passed("upload", LUMP_BYTES // 3)
    lumps.passed("upload", -2 * LUMP_BYTES)
    assert told == [
        ("fetch", LUMP_BYTES // 2 * 2),
        ("upload", LUMP_BYTES // 3 * 3 - 2 * LUMP_BYTES),
    ]

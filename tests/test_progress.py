"""Progress: a line now and then in a log, a bar on a terminal, nothing when silent."""

import io

import pytest
from rich.console import Console

from scattergen.display import progress as progress_module
from scattergen.display.progress import SILENT, Progress


class Clock:
    """Stands for the module `time`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def logged(capsys):
    return capsys.readouterr().err.splitlines()


def test_lines_of_a_long_stage_in_a_log(clock, capsys):
    with Progress().task("encode", total=1000) as task:
        for _ in range(10):
            clock.now += 10
            task.advance(100, "loss 0.5")
    assert logged(capsys) == [
        # The clock of the rate starts at the first call: 100 steps in 10 s, so that 800 take 80 s.
        "  encode: 200/1,000, 0:01:20 left  loss 0.5",
        "  encode: 400/1,000, 0:01:00 left  loss 0.5",
        "  encode: 600/1,000, 0:00:40 left  loss 0.5",
        "  encode: 800/1,000, 0:00:20 left  loss 0.5",
        "  encode: 100.0 s  loss 0.5",
    ]


def test_a_resumed_stage_does_not_count_what_was_done_before(clock, capsys):
    with Progress().task("train", total=1000) as task:
        task.advance(900)
        clock.now += 20
        task.advance(10)
        assert task.completed == 910
    # 10 steps in 20 s, so that 90 take 180 s, although 910 seem to have taken 20.
    assert logged(capsys)[0].strip() == "train: 910/1,000, 0:03:00 left"


def test_no_time_is_told_before_a_rate_is_known(clock, capsys):
    with Progress().task("fit", total=3) as task:
        clock.now += 60
        task.advance()
        assert logged(capsys) == []


def test_short_stages_are_one_line(clock, capsys):
    with Progress().task("fit", total=2) as task:
        for _ in range(2):
            clock.now += 1
            task.advance()
    assert [line.rstrip() for line in logged(capsys)] == ["  fit: 2.0 s"]


def test_the_last_note_stays(clock):
    with SILENT.task("fit", total=3) as task:
        task.advance(1, "first")
        task.advance(2)
    assert (task.completed, task.note) == (3, "first")


def test_brackets_are_text(clock, capsys):
    progress = Progress()
    progress.message("density [red] 1/2")
    with progress.task("density [bold]", total=10) as task:
        for _ in range(3):
            clock.now += 20
            task.advance(1, "[x]")
    lines = logged(capsys)
    assert lines[0] == "density [red] 1/2"
    assert lines[1] == "  density [bold]: 2/10, 0:02:40 left  [x]"
    assert lines[-1] == "  density [bold]: 60.0 s  [x]"


def test_long_lines_are_not_broken(capsys):
    Progress().message("word " * 100)
    assert len(logged(capsys)) == 1


def test_silence(clock, capsys):
    for progress in (Progress(show=False), SILENT):
        progress.message("nothing")
        with progress.task("nothing", total=10) as task:
            clock.now += 100
            task.advance(5)
        assert task.completed == 5
    assert capsys.readouterr() == ("", "")


def test_nothing_is_printed_on_standard_output(clock, capsys):
    with Progress().task("fit", total=1) as task:
        task.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fit" in captured.err


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_passes_through_and_the_stage_is_not_reported_as_done(terminal):
    progress, output = Progress(), io.StringIO()
    progress.console = Console(file=output, force_terminal=terminal)
    with pytest.raises(ZeroDivisionError), progress.task("fit", total=3) as task:
        task.advance(1 // 0)
    assert " s  " not in output.getvalue()


def test_a_bar_on_a_terminal():
    progress, output = Progress(), io.StringIO()
    progress.console = Console(file=output, force_terminal=True, width=120)
    with progress.task("encode [mine]", total=20) as task:
        task.advance(5, "loss [bold]")
        task.advance(15)
        assert task.completed == 20
    # In the bar, and in the line that replaces it at the end.
    assert output.getvalue().count("encode [mine]") >= 2
    assert output.getvalue().count("loss [bold]") >= 2
    assert "20/20" in output.getvalue()

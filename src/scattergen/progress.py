"""Progress of long stages: a bar with time left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from scattergen.wording import Heedless, visible

_LOG_EVERY = 15.0  # seconds between two lines when the output is not a terminal


class Task:
    """One stage whose steps are counted; made by `Progress.task`."""

    def __init__(self, description: str, total: int, show: Callable[["Task", int], None] | None = None) -> None:
        self.description, self.total, self.completed, self.note = description, total, 0, ""
        self._show = show

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more steps done and show `note`, such as the current loss."""
        self.completed += steps
        self.note = self.note if note is None else visible(note)
        if self._show is not None:
            self._show(self, steps)


class _Log:
    """Tells of a task in a line now and then, with the time that is left."""

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message, self._start = message, time.monotonic()
        self._next = self._start + _LOG_EVERY
        self._first: int | None = None

    def __call__(self, task: Task, steps: int) -> None:
        now = time.monotonic()
        # A resumed stage starts with many steps at once, so the rate is that of the later ones.
        if self._first is None:
            self._first, self._start = task.completed, now
        if now >= self._next and self._first < task.completed < task.total:
            left = (now - self._start) / (task.completed - self._first) * (task.total - task.completed)
            count, eta = f"{task.completed:,}/{task.total:,}", timedelta(seconds=round(left))
            self._message(f"  {task.description}: {count}, {eta} left  {task.note}")
            self._next = now + _LOG_EVERY


class Progress:
    """Where stages report to: standard error, or with `show=False` nowhere.

    Example:
        >>> with Progress(show=False).task("encode", total=3) as task:
        ...     for _ in range(3):
        ...         task.advance()
        >>> task.completed
        3
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show and sys.stderr is not None  # None where it is closed
        self.console = Console(file=cast(TextIO, Heedless(sys.stderr)), quiet=not self.show, soft_wrap=True)

    def message(self, text: str) -> None:
        """Print one line, whatever names in it hold."""
        self.console.print(visible(text), highlight=False, markup=False, emoji=False)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """A stage of `total` steps."""
        start, description = time.monotonic(), visible(description)
        if not self.show:
            yield Task(description, total)
            return
        if self.console.is_terminal:
            columns = (
                TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
            )  # fmt: skip
            with Bars(*columns, console=self.console, transient=True) as bars:
                bar = bars.add_task(description, total=total, note="")
                task = Task(description, total, lambda task, steps: bars.update(bar, advance=steps, note=task.note))
                yield task
        else:
            task = Task(description, total, _Log(self.message))
            yield task
        self.message(f"  {description}: {time.monotonic() - start:.1f} s  {task.note}")


SILENT = Progress(show=False)  # reports nothing

"""Progress of long stages: bars with time left on a terminal and in a notebook, a line now and then in a log."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import escape
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from scattergen.display.notebook import shell
from scattergen.display.words import Heedless, visible

_LOG_EVERY, _SHOW_EVERY = 15.0, 0.2  # seconds between two lines in a log, and between two moves of a notebook's bar
_LINES = 100  # of what is finished, that a notebook shows


class Task:
    """One stage whose steps are counted; made by `Progress.task`."""

    def __init__(self, description: str, total: int, show: Callable[["Task"], None] | None = None) -> None:
        self.description, self.total, self.completed, self.note = description, total, 0, ""
        self._show, self._start, self._first = show, 0.0, -1

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more steps done and show `note`, such as the current loss."""
        self.completed += steps
        self.note = self.note if note is None else visible(note)
        # A resumed stage starts with many steps at once, so the rate is that of the later ones.
        if self._first < 0:
            self._first, self._start = self.completed, time.monotonic()
        if self._show is not None:
            self._show(self)

    def left(self) -> str:
        """The time that is left, in words; nothing before it is known."""
        if not 0 <= self._first < self.completed < self.total:
            return ""
        left = (time.monotonic() - self._start) / (self.completed - self._first) * (self.total - self.completed)
        return f", {timedelta(seconds=round(left))} left"

    def line(self) -> str:
        """How far it is, in a line."""
        return f"  {self.description}: {self.completed:,}/{self.total:,}{self.left()}  {self.note}"


class _Log:
    """Tells of a task in a line now and then, with the time that is left."""

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message, self._next = message, time.monotonic() + _LOG_EVERY

    def __call__(self, task: Task) -> None:
        if time.monotonic() >= self._next and task.left():
            self._message(task.line())
            self._next = time.monotonic() + _LOG_EVERY


class _Page:
    """The one output of a notebook's cell: a line for all that is finished, and bars of what is under way."""

    def __init__(self, shell: Any) -> None:
        self._publish, self.cell = shell.display_pub.publish, shell.execution_count
        self._id, self._shown, self._next = os.urandom(8).hex(), False, 0.0
        self.lines, self.tasks = deque[str](maxlen=_LINES), list[Task]()

    def __call__(self, task: Task) -> None:
        if time.monotonic() >= self._next:
            self.show()

    def show(self) -> None:
        """Show it as it is now."""
        self._next, lines = time.monotonic() + _SHOW_EVERY, "\n".join(self.lines)
        html = f'<div style="white-space:pre-wrap">{escape(lines)}</div>'
        for task in self.tasks:
            bar = f'<progress style="width:16em" value="{task.completed}" max="{task.total}"></progress>'
            done = f"{task.completed:,}/{task.total:,}{task.left()}"
            html += f"<div>{escape(task.description)} {bar} {done}&ensp;{escape(task.note)}</div>"
        data = {"text/html": html, "text/plain": "\n".join([lines, *(task.line() for task in self.tasks)])}
        self._publish(data, metadata={}, transient={"display_id": self._id}, update=self._shown)
        self._shown = True


class Progress:
    """Where stages report to: the cell of a notebook, else standard error; or with `show=False` nowhere.

    Example:
        >>> with Progress(show=False).task("encode", total=3) as task:
        ...     for _ in range(3):
        ...         task.advance()
        >>> task.completed
        3
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show and sys.stderr is not None  # None where it is closed
        stream = cast(TextIO, Heedless(sys.stderr))
        self.console = Console(file=stream, quiet=not self.show, soft_wrap=True, force_jupyter=False)
        self._page: _Page | None = None

    @classmethod
    def where_somebody_watches(cls) -> "Progress":
        """Shown in a notebook and in an interactive Python, silent in a script."""
        return cls(show=hasattr(sys, "ps1"))

    def message(self, text: str) -> None:
        """Print one line, whatever names in it hold."""
        page = self._cell()
        if page is None:
            self.console.print(visible(text), highlight=False, markup=False, emoji=False)
        else:
            page.lines.append(visible(text))
            page.show()

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """A stage of `total` steps, perhaps within another one."""
        start, description = time.monotonic(), visible(description)
        page = self._cell()
        if not self.show:
            yield Task(description, total)
            return
        if page is not None:
            task = Task(description, total, page)
            page.tasks.append(task)
            try:
                page.show()
                yield task
            finally:
                page.tasks.remove(task)
        elif self.console.is_terminal:
            columns = (
                TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
            )  # fmt: skip
            with Bars(*columns, console=self.console, transient=True) as bars:
                bar = bars.add_task(description, total=total, note="")
                task = Task(description, total, lambda task: bars.update(bar, completed=task.completed, note=task.note))
                yield task
        else:
            task = Task(description, total, _Log(self.message))
            yield task
        self.message(f"  {description}: {time.monotonic() - start:.1f} s  {task.note}")

    def _cell(self) -> _Page | None:
        """What the cell shows that a notebook runs now, if this is one."""
        there = shell() if self.show else None
        if there is None:
            return None
        if self._page is None or self._page.cell != there.execution_count:
            self._page = _Page(there)
        return self._page


SILENT = Progress(show=False)  # reports nothing

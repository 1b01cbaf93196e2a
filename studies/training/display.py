"""What trainings share at the terminal: a line for each, and a Ctrl-C that ends them in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from balred.studies.training.loop import Event


@contextmanager
def heard() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets beside raising KeyboardInterrupt, which is lost if it strikes in a library's callback."""
    stopped = threading.Event()

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        stopped.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C while files are written (only the main thread may say so)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def bars(console: Console) -> Progress:
    """A line for each training: name, bar, step, and how it stands."""
    return Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=6),
        TextColumn("{task.completed:>4.0f}"),
        TextColumn("{task.fields[status]}"),
        console=console,
    )


def say(progress: Progress, message: str) -> None:
    """A line above the others, word for word."""
    progress.console.print(f"balred train: {message}", markup=False, highlight=False, soft_wrap=True)


def show(progress: Progress, task: TaskID, event: Event) -> None:
    """Bring a training's line up to date; a cut is told above the lines."""
    record = event.record
    accuracy = f"{100 * record.points[-1].accuracy:4.1f} %" if record.points else "   -  "
    ranks = " ".join(str(n) for n in record.ranks.values())
    status = f"loss {event.loss:5.3f} acc {accuracy} states {ranks:>3} {record.seconds:4.0f} s"
    progress.update(task, completed=event.step, status=status)
    if event.report is not None:
        progress.console.print(str(event.report))

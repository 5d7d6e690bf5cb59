"""Our supervisor of several processes beside the starter of torch.distributed.elastic.

    python benchmarks/supervising.py

Two questions to each. Which processes are still there ten seconds after their starter was killed by SIGKILL?  And what
is told of two processes, of which the second loses its connection at once and the first says the cause half a second
later?  (Each waits until both are there.)
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
from torch.distributed.elastic.multiprocessing.errors import record

from scattergen.errors import ScattergenError
from scattergen.processes import Layout, errors_reported, supervise

N = 2
CAUSE, LOST = "the cause", "Connection closed by peer"  # as gloo says it


def meet(folder: Path) -> int:
    """Number of this process; returns when all are there."""
    rank = int(os.environ["LOCAL_RANK"])
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    while len(list(folder.glob("*.pid"))) < N:
        time.sleep(0.01)
    return rank


def work(task: str, folder: Path) -> None:
    """One of the processes."""
    rank = meet(folder)
    if task == "kill":
        time.sleep(60)
    time.sleep(0.5 if rank == 0 else 0)
    raise ScattergenError(CAUSE) if rank == 0 else RuntimeError(LOST)


def start(way: str, task: str, folder: Path) -> None:
    """The starter, which is killed or says what failed."""
    command = [__file__, "--worker", way, task, str(folder)]
    if way == "ours":
        try:
            supervise([sys.executable, *command], Layout(N), N)
        except ScattergenError as error:
            print(f"told: {error}")
        return
    arguments = {rank: tuple(command) for rank in range(N)}
    variables = {rank: {"LOCAL_RANK": str(rank)} for rank in range(N)}
    logs = DefaultLogsSpecs(log_dir=str(folder / "logs"))
    failures = start_processes("fit", sys.executable, arguments, variables, logs).wait(period=0.05).failures
    for rank, failure in failures.items():
        message = failure.message if isinstance(failure.message, str) else failure.message["message"]
        print(f"told: process {rank}, {message}")


def is_there(pid: int) -> bool:
    """Whether a process has not ended (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ask(way: str, task: str) -> str:
    """The answer to one question."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--starter", way, task, name]
        starter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if task == "cause":
            out, err = starter.communicate()
            told = "; ".join(line.removeprefix("told: ") for line in out.splitlines() if line.startswith("told: "))
            return f'"{told}", beside {len(err.splitlines())} other lines'
        while len(pids := [int(text) for file in folder.glob("*.pid") if (text := file.read_text())]) < N:
            time.sleep(0.05)
        starter.kill()
        time.sleep(10)
        left = [pid for pid in pids if is_there(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        starter.communicate()
        return f"{len(left)} of {N} still there"


def main() -> None:
    """Both answers of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starter", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.starter:
        way, task, folder = arguments.starter
        start(way, task, Path(folder))
    elif arguments.worker:
        way, task, folder = arguments.worker
        if way == "ours":
            with errors_reported(Layout(N), lambda error: str(error) if isinstance(error, ScattergenError) else None):
                work(task, Path(folder))
        else:
            record(work)(task, Path(folder))
    else:
        for task, question in (("kill", "after SIGKILL"), ("cause", "of a failure")):
            for way in ("ours", "elastic"):
                print(f"{question:15}{way:9}{ask(way, task)}", flush=True)


if __name__ == "__main__":
    main()

"""Processes that begin at once: forks of one that has imported PyTorch and the rest, but done nothing yet."""

import importlib
import json
import os
import subprocess
import sys
import time

IMPORTED = (
    "jinja2", "lightning_fabric", "numba", "scattergen.cli", "scattergen.encoder", "scattergen.pipeline.fit",
    "scattergen.pipeline.report",
)  # fmt: skip


class Forks:
    """The process that forks, told what to run."""

    def __init__(self, folder):
        self.folder, self.started = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, code, *arguments):
        """As `python -c CODE ARGUMENTS`, with its output in a file."""
        self.started += 1
        return Fork(self, code, arguments, self.folder / f"{self.started}.txt")

    def ask(self, **question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.communicate()


class Fork:
    """What the tests use of a `Popen`."""

    def __init__(self, forks, code, arguments, output):
        self.forks, self.output, self.returncode = forks, output, None
        self.pid = forks.ask(code=code, arguments=arguments, output=str(output))

    def poll(self):
        if self.returncode is None:
            self.returncode = self.forks.ask(pid=self.pid)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, 9)

    def communicate(self, timeout):
        """Both outputs as one, when it has ended."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            time.sleep(0.005)
        return self.output.read_bytes(), None


def serve():
    """Fork for every line of code, tell how a fork ended for every line with its number."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        question = json.loads(line)
        if "pid" in question:
            pid, status = os.waitpid(question["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            become(**question)
        print(json.dumps(answer), flush=True)


def become(code, arguments, output):
    """Run code in this process and end it."""
    for number, path, how in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(path, how), number)
    os.dup2(1, 2)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of the tests
    serve()

"""How soon the explorer of a run is there, and how soon it answers a click.

    python benchmarks/explore.py runs/mnist

The command is started `--starts` times; every click is made `--clicks` times, over HTTP as the browser does, and the
median is printed, with the processor seconds that the server needs for it: on a busy machine these tell more.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from scattergen.display.machine import machine
from scattergen.explorer.page import TABS

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with OPENER.open(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=300) as answer:
        return answer.read()


def processor_seconds(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


class Visitor:
    """What a browser holds of the page."""

    def __init__(self, address: str) -> None:
        self.address, self.count = address, 0
        config = json.loads(fetch(f"{address}config"))
        self.parts = {part["id"]: part for part in config["components"]}
        self.values = {one: part["props"].get("value") for one, part in self.parts.items()}
        self.listeners = config["dependencies"]

    def act(self, name: str | None, event: str, data: Any = None) -> None:
        """Do what happens at an event of a component, or of the page."""
        for listener in self.listeners:
            for target, kind in listener["targets"]:
                part = self.parts.get(target, {"type": "page", "props": {}})
                names = [part["type"], str(part["props"].get("value")), *(part["props"].get("elem_classes") or [])]
                if kind == event and (name is None or name in names):
                    return self.send(listener, target, data)
        raise SystemExit(f"The page has no {name} with the event {event}.")

    def send(self, listener: dict[str, Any], target: int, data: Any) -> None:
        """Let a listener answer, and read the answer to its end."""
        self.count += 1
        session = f"benchmark{self.count}"
        given = [self.values.get(one) for one in listener["inputs"]]
        body = {"data": given, "fn_index": listener["id"], "session_hash": session, "event_data": data}
        fetch(f"{self.address}gradio_api/queue/join", {**body, "trigger_id": target})
        told = fetch(f"{self.address}gradio_api/queue/data?session_hash={session}").decode()
        events = [json.loads(line.removeprefix("data:")) for line in told.splitlines() if line.startswith("data:")]
        (done,) = (event for event in events if event["msg"] == "process_completed")
        if not done["success"]:
            raise SystemExit(f"The page answered {done['output']}.")
        for one, value in zip(listener["outputs"], done["output"]["data"], strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                value = value.get("value", self.values.get(one))
            if self.parts[one]["type"] in ("dropdown", "slider", "number"):
                self.values[one] = value


def start(run: str) -> tuple[subprocess.Popen[str], str, float, float]:
    """The server, its address, and seconds and processor seconds until the first page was read."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "scattergen", "explore", run, "--no-browser", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["address"]
    fetch(address)
    return process, address, time.perf_counter() - began, processor_seconds(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/mnist")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=5)
    asked = parser.parse_args()
    print(", ".join(machine().values()))
    for k in range(asked.starts):
        process, address, seconds, work = start(asked.run)
        visitor = Visitor(address)
        began = time.perf_counter()
        visitor.act(None, "load")
        print(
            f"first page: {seconds:.2f} s (processor {work:.2f} s); samples {time.perf_counter() - began:.2f} s later"
        )
        if k + 1 < asked.starts:
            process.terminate()
            process.wait()
    clicks: list[tuple[str, str, str, Any]] = [("other samples", "Other samples", "click", None)]
    clicks += [("another sample", "part-samples", "select", {"index": 3, "value": None})]
    for k, tab in enumerate(TABS):
        clicks.append((f"tab {tab}", "tabs", "select", {"index": k, "value": tab}))
    clicks.append(("a slider", "part-component-2", "input", None))
    time.sleep(5)  # for the server to prepare the rest
    for told, name, event, data in clicks:
        seconds, work = [], processor_seconds(process)
        for _ in range(asked.clicks):
            began = time.perf_counter()
            visitor.act(name, event, data)
            seconds.append(time.perf_counter() - began)
        work = (processor_seconds(process) - work) / asked.clicks
        print(f"{told}: {statistics.median(seconds):.3f} s (processor {work:.3f} s)")
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()

"""The commands that tell about a run."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from scattergen.cli.arguments import (
    Json,
    Run,
)
from scattergen.runs import RunFolder


def info(run: Run, as_json: Json = False) -> None:
    """Tell what a run holds, how it was made, and whether its files are intact.

    [bold]Example[/bold]

      scattergen info runs/mnist
    """
    opened = RunFolder.open(run)
    opened.check()
    facts: dict[str, Any] = {
        "run": str(run),
        "version": opened.version,
        # A model saved from Python has no stages.
        "complete": opened.has("decoder") and (not opened.stages or "report" in opened.stages),
        "densities": opened.names("densities"),
        "options": opened.options,
        "stages": opened.stages,
    }
    if as_json:
        print(json.dumps(facts))
        return
    state = "complete" if facts["complete"] else "unfinished: run the same fit command again"
    print(f"{run}: {state}; made by scattergen {opened.version}; files intact.")
    table = Table("stage", "seconds", box=None, padding=(0, 3, 0, 0))
    for name, stage in opened.stages.items():
        table.add_row(name, f"{stage['seconds']:.1f}" if "seconds" in stage else "")
    Console().print(table)
    quality = opened.stages.get("report", {})
    if "psnr" in quality:
        print(f"Test reconstruction: {quality['psnr']:.2f} dB PSNR.")
    print(json.dumps(opened.options, indent=2))

"""Run folders: one fitted model each, self-describing, resumable, never half-written."""

from scattergen.runs.folder import RunFolder
from scattergen.runs.index import LAST_STAGE, differences, refuse_differences
from scattergen.runs.layout import check_name
from scattergen.runs.stages import Result, Stages, fit_seconds, save_run

__all__ = [
    "LAST_STAGE", "Result", "RunFolder", "Stages", "check_name", "differences", "fit_seconds", "refuse_differences",
    "save_run",
]  # fmt: skip

"""Run folders: one fitted model each, self-describing, resumable, never half-written."""

from scattergen.runs.folder import LAST_STAGE, RunFolder
from scattergen.runs.options import check_name, differences, refuse_differences
from scattergen.runs.saving import save_run
from scattergen.runs.stages import Stages

__all__ = [
    "LAST_STAGE",
    "RunFolder",
    "Stages",
    "check_name",
    "differences",
    "refuse_differences",
    "save_run",
]

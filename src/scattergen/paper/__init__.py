"""The founding paper's tables and figures beside a run's, each with a verdict, as one page."""

from scattergen.paper.findings import Finding
from scattergen.paper.material import FULL, QUICK, Effort
from scattergen.paper.reproduce import Reproduction, fit_command, reproduce_run

__all__ = ["FULL", "QUICK", "Effort", "Finding", "Reproduction", "fit_command", "reproduce_run"]

"""The founding paper's tables and figures beside a run's, each with a verdict, as one page."""

from scattergen.reproduction.material import FULL, QUICK, Effort
from scattergen.reproduction.page import Finding
from scattergen.reproduction.reproduce import Reproduction, fit_command, reproduce_run

__all__ = ["FULL", "QUICK", "Effort", "Finding", "Reproduction", "fit_command", "reproduce_run"]

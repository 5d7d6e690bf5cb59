"""The processes of one fit: this one alone, or several that share images and gradients."""

from scattergen.processes.group import ALONE, Layout, Processes, is_lost_connection, join, make_fabric
from scattergen.processes.supervisor import errors_reported, supervise, this_program

__all__ = [
    "ALONE", "Layout", "Processes", "errors_reported", "is_lost_connection", "join", "make_fabric", "supervise",
    "this_program",
]  # fmt: skip

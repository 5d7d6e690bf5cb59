"""The version of this software, which every run folder states."""

__version__ = "0.2.0"

"""What computes: the version of this software, which every run folder states, and the machine."""

import os
from pathlib import Path

__version__ = "0.2.0"


def machine() -> dict[str, str]:
    """Processor, number of threads, and versions: what measurements are made on."""
    import platform  # which is slow to import, as is PyTorch, and the version is needed before them

    import torch

    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()), "torch": torch.__version__,
        "python": platform.python_version(), "system": platform.system(),
    }  # fmt: skip


def memory() -> int:
    """The bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

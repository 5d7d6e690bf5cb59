"""The command line as it is started: by its installed command, and by `python -m scattergen`, as launchers do."""

import os
import signal
import sys


def main() -> None:
    """Run the command line, which Ctrl-C may end while it is still being imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # PyTorch's threads wait for each other for 4 ms before they sleep, and so keep a processor from the very thread
        # that they wait for, if another program has the other one. With 0.3 ms a fit beside other work is two to seven
        # times faster, and alone slower by a tenth at most (benchmarks/waiting.py). PyTorch reads it as it is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        from scattergen.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("interrupted: run it again.", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python, while it ends, would print a traceback


if __name__ == "__main__":
    # Python has put the current folder first, where a file torch.py would be run in place of
    # PyTorch. A checkout that is not installed is found there only, though.
    try:
        here = os.getcwd()
    except OSError:  # a folder that was deleted, which Python has left out
        here = ""
    if sys.path[0] == here != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    main()

"""The command line as it is started: by its installed command, and by `python -m scattergen`, as launchers do."""

import os
import signal
import sys


def main() -> None:
    """Run the command line, which Ctrl-C may end while it is still being imported."""
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

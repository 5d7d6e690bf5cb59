"""`python -m scattergen`: the command line, as launchers of several processes start it."""

import os
import sys

if __name__ == "__main__":
    # Python has put the current folder first, where a file torch.py would be run in place of
    # PyTorch.  A checkout that is not installed is found there only, though.
    try:
        here = os.getcwd()
    except OSError:  # a folder that was deleted, which Python has left out
        here = ""
    if sys.path[0] == here != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    from scattergen.cli import main

    main()

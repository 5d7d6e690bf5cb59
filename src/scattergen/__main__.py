"""`python -m scattergen`: the command line, as launchers of several processes start it."""

from scattergen.cli import main

if __name__ == "__main__":
    main()

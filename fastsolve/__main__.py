"""`python -m fastsolve`: the command line."""

from fastsolve.cli import main

if __name__ == "__main__":
    main()

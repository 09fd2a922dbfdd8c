"""`python -m fastsolve`: the command line."""

from fastsolve.cli import main

main()

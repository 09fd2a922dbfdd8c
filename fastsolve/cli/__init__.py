"""The command line: one command, one file. `add` says what a command takes, and its `run` answers with text.

What only one command needs, plots and progress bars, is imported when it runs: `fastsolve --help` needs no extra.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

import fastsolve
from fastsolve.cli import bench, citation, demo, doctor, plan, recommendation, solvers
from fastsolve.cli.text import FailedError

_EXAMPLES = """\
examples:
  fastsolve doctor                              what is installed, and what would run
  fastsolve solvers --calls 1 --stochastic      the catalogue, or a part of it
  fastsolve recommend 8                         which solver to take
  fastsolve plan dpmpp_2m --nfe 8               the equations of a sampler
  fastsolve cite seeds3 --bibtex                what to cite

exit codes: 0 done; 1 a check or something outside failed; 2 a mistake in what was asked for
"""


def parser() -> argparse.ArgumentParser:
    """All commands; `run` of the parsed arguments is the one to call."""
    top = argparse.ArgumentParser(
        prog="fastsolve",
        description="Diffusion samplers, compiled to one kernel launch per model call.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastsolve {fastsolve.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (solvers, recommendation, plan, demo, bench, doctor, citation):
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command. Raises SystemExit with 2 for a mistake in what was asked for, and with 1 for what failed."""
    args = parser().parse_args(argv)

    def said(kind: str, what: object) -> None:
        sys.stderr.write(f"fastsolve {args.command}: {kind}: {what}\n")

    failed = False
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: said("warning", message)
            answer = args.run(args)
    except FailedError as error:
        answer, failed = str(error), True
    except (ValueError, TypeError) as error:
        said("error", error)
        raise SystemExit(2) from None
    except (ImportError, OSError, RuntimeError) as error:
        said("error", error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    try:
        _write(answer)
    except OSError as error:  # a full disk
        said("error", error)
        failed = True
    if failed:
        raise SystemExit(1)


def _write(answer: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name of an author on a terminal of ASCII
    try:
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain again at exit
        if not isinstance(error, BrokenPipeError):  # whose reader, `head` say, has all it wants
            raise

"""`fastsolve recommend`: the solver and grid that were measured to be best for a budget, and how sure that is."""

from __future__ import annotations

import argparse
import dataclasses

import fastsolve
from fastsolve.cli.text import as_json, positive

_EXAMPLES = """\
examples:
  fastsolve recommend 8
  fastsolve recommend 20 --schedule vp --noise
  fastsolve recommend 12 --schedule flow --path --json
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "recommend",
        help="say which solver and grid to take for a budget of model calls",
        description="The best solver that was measured for so many model calls, its grid, and what is as good.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("nfe", type=positive, metavar="NFE", help="a budget of model calls")
    command.add_argument("--schedule", default="edm", metavar="NAME", help="default: %(default)s")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--noise", action="store_true", help="of solvers that draw noise only")
    kind.add_argument("--path", action="store_true", help="for the exact path of the ODE, of solvers without noise")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    stochastic = True if args.noise else False if args.path else None
    found = fastsolve.recommend(args.nfe, stochastic=stochastic, schedule=args.schedule)
    return as_json(dataclasses.asdict(found)) if args.json else str(found)

"""`fastsolve plan`: a sampler as equations, levels and counts; as JSON; or as a picture."""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import fastsolve
from fastsolve.cli.text import as_json, positive, table

_EXAMPLES = """\
examples:
  fastsolve plan dpmpp_2m --steps 4
  fastsolve plan seeds3 --nfe 12 --schedule vp --options eta=0.5 variant=3a
  fastsolve plan euler --schedule edm --grid 80,10,1,0
  fastsolve plan restart --nfe 39 --options 'intervals=[[3, 2, 0.06, 0.3]]'
  fastsolve plan unipc --nfe 8 --schedule flow --prediction flow --guidance 4 --plot plan.png
  fastsolve plan heun --steps 6 --json > plan.json

Option values: a number, inf, true, false, none, a name, or lists of them as JSON or Python write them; nothing is evaluated.
"""
_LONGEST = 4096  # characters of an option's value
_WORDS: dict[str, object] = {"true": True, "false": False, "none": None, "null": None, "inf": math.inf}
_STEPS = 4


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "plan",
        help="print a solver's plan as equations, levels and counts",
        description="The plan of a solver on a grid: what is computed, at which levels, and what it costs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("solver", metavar="SOLVER", help="a name of `fastsolve solvers`")
    count = command.add_mutually_exclusive_group()
    count.add_argument("--steps", type=positive, metavar="N", help=f"steps of the grid (default: {_STEPS})")
    count.add_argument("--nfe", type=positive, metavar="N", help="a budget of model calls instead")
    command.add_argument("--schedule", default="edm", metavar="NAME", help="default: %(default)s")
    command.add_argument("--grid", metavar="NAME|T,T,...", help="a name, or decreasing clock values, the last included")
    command.add_argument("--prediction", default="x0", metavar="NAME", help="the model's output (default: %(default)s)")
    command.add_argument("--options", nargs="+", default=[], metavar="NAME=VALUE", help="options of the solver")
    command.add_argument("--guidance", type=float, metavar="SCALE", help="scale of classifier-free guidance")
    answer = command.add_mutually_exclusive_group()
    answer.add_argument("--json", action="store_true", help="print JSON")
    answer.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw coefficients and levels (needs fastsolve[demo])"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    grid = _grid(args.grid)
    steps = args.steps
    if steps is None and args.nfe is None and not isinstance(grid, tuple):
        steps = _STEPS
    plan = fastsolve.make_plan(
        args.solver,
        schedule=args.schedule,
        grid=grid,
        steps=steps,
        nfe=args.nfe,
        prediction=args.prediction,
        guidance=args.guidance,
        options=_options(args.options),
    )
    if args.json:
        return as_json(_facts(plan))
    if args.plot is not None:
        fastsolve.pictures.save(fastsolve.pictures.plot_plan(plan), args.plot)
        return f"picture: {args.plot}"
    rows = [
        (f"{i}", *(f"{value:.6g}" for value in level), f"{_logsnr(level):.6g}") for i, level in enumerate(plan.levels)
    ]
    return f"{plan}\n\n{table(('level', 't', 'alpha', 'sigma', 'logSNR'), rows)}"


def _logsnr(level: Sequence[float]) -> float:
    """log(alpha^2 / sigma^2), in nats."""
    _, alpha, sigma = level
    return math.inf if sigma == 0.0 else 2.0 * math.log(alpha / sigma) if alpha > 0.0 else -math.inf


def _facts(plan: fastsolve.Plan) -> dict[str, object]:
    levels = []
    for i, level in enumerate(plan.levels):
        logsnr = _logsnr(level)
        t, alpha, sigma = level
        finite = float(f"{logsnr:.12g}") if math.isfinite(logsnr) else None  # JSON has no infinity
        levels.append({"level": i, "t": t, "alpha": alpha, "sigma": sigma, "logsnr": finite})
    return {
        "solver": plan.solver,
        "schedule": plan.schedule,
        "nfe": plan.nfe,
        "forwards": plan.forwards,
        "launches": plan.launches,
        "draws": plan.draws,
        "bytes_per_element": plan.bytes,
        "levels": levels,
        "equations": [line.strip() for line in str(plan).splitlines()[1:]],
        "plan": json.loads(plan.to_json()),  # what Plan.from_json reads
    }


def _grid(text: str | None) -> str | tuple[float, ...] | None:
    """A name as it is, clock values as numbers."""
    if text is None or (text.replace("_", "").isalnum() and not text[0].isdigit()):
        return text
    try:
        return tuple(map(float, text.strip("[]() ").removesuffix(",").split(",")))
    except ValueError:
        raise ValueError(f"--grid takes a name or clock values such as 80,10,1,0, not {text!r}") from None


def _options(texts: Sequence[str]) -> dict[str, object]:
    options: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--options takes NAME=VALUE, such as eta=0.5, not {text!r}")
        if name in options:
            raise ValueError(f"--options gives {name} twice")
        options[name] = value_of(value)
    return options


def value_of(text: str) -> object:
    """The value of an option's text: data only, by Python's and JSON's literals; a bare word is a name.

    Raises ValueError for anything else.
    """
    refused = f"an option's value is a number, true, false, none, a name or a list of them, not {text[:80]!r}"
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if len(word) > _LONGEST:
        raise ValueError(f"{refused}: it is longer than {_LONGEST} characters")
    for read in (json.loads, _name, ast.literal_eval):
        try:
            value = read(word)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if _is_data(value):
            return value
    raise ValueError(refused)


def _name(word: str) -> str:
    if not re.fullmatch(r"\w+", word):
        raise ValueError("not a name")
    return word


def _is_data(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_data(part) for key, part in value.items())
    return value is None or isinstance(value, bool | int | float | str)

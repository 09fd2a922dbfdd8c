"""`fastsolve solvers`: the catalogue, or all about one of it."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Mapping

import fastsolve
from fastsolve.cli.text import as_json, positive, table

_EXAMPLES = """\
examples:
  fastsolve solvers                             all of them
  fastsolve solvers --calls 1 --stochastic      one model call per step, with noise
  fastsolve solvers dpmpp_2m                    what one does, and its options
  fastsolve solvers --json | jq '.[].name'
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "solvers",
        help="list the solvers, or tell about one",
        description="The solvers: order (of the ODE, and weak order), model calls per step, whether they draw noise by default, "
        "options with their defaults, and where the formula comes from.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("name", nargs="?", help="only this one, with its description")
    noise = command.add_mutually_exclusive_group()
    noise.add_argument("--stochastic", action="store_true", default=None, help="only those that draw noise by default")
    noise.add_argument("--deterministic", action="store_false", dest="stochastic", help="only those that do not")
    command.add_argument("--calls", type=positive, metavar="N", help="only those of N model calls per step")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    if args.name is not None:
        if args.stochastic is not None or args.calls is not None:
            raise ValueError(
                "--stochastic, --deterministic and --calls choose from the list: leave them out beside a name"
            )
        facts = _facts(args.name)
        return as_json(facts) if args.json else _told(facts)
    chosen = [
        facts
        for facts in map(_facts, fastsolve.list_solvers())
        if args.stochastic in (None, facts["stochastic"]) and args.calls in (None, facts["calls_per_step"])
    ]
    if args.json:
        return as_json(chosen)
    if not chosen:
        return "no solver is like that"
    rows = [
        (
            str(facts["name"]),
            f"{facts['order']}",
            "" if facts["weak_order"] is None else f"{facts['weak_order']}",
            f"{facts['calls_per_step']}",
            "yes" if facts["stochastic"] else "no",
            _spelled(facts["options"]),
            str(facts["source"]),
        )
        for facts in chosen
    ]
    head = ("solver", "order", "weak", "calls", "noise", "options", "source")
    return table(head, rows, {5: 46, 6: 44})


def _facts(name: str) -> dict[str, object]:
    found = fastsolve.solvers.get(name)
    return {
        "name": found.name,
        "order": found.order,
        "weak_order": found.weak_order,
        "calls_per_step": found.stages,
        "stochastic": found.stochastic,
        "forms": found.forms,
        "options": {option: _plain(value) for option, value in found.options.items()},
        "source": found.source,
        "description": inspect.cleandoc(found.text.__doc__ or ""),
    }


def _plain(value: object) -> object:
    """A default as JSON has it; infinity as the name by which `fastsolve plan --options` takes it."""
    return "inf" if value == math.inf else list(value) if isinstance(value, tuple) else value


def _spelled(options: object) -> str:
    assert isinstance(options, Mapping)
    return " ".join(f"{option}={_short(value)}" for option, value in options.items()) or "-"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _told(facts: Mapping[str, object]) -> str:
    options = facts["options"]
    assert isinstance(options, Mapping)
    weak = "" if facts["weak_order"] is None else f", weak order {facts['weak_order']}"
    lines = [
        f"{facts['name']}: order {facts['order']}{weak}, model calls per step: {facts['calls_per_step']}, "
        f"noise: {'yes' if facts['stochastic'] else 'no'}",
        f"source: {facts['source']}",
        "",
        str(facts["description"]),
        "",
        "options" if options else "it has no options",
        *(f"    {option} = {_short(value)}" for option, value in options.items()),
    ]
    return "\n".join(lines)

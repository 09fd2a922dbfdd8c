"""`fastsolve cite`: what to cite for a solver, as text or as BibTeX. Nothing but what its source and docstring state."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import fastsolve

_EXAMPLES = """\
examples:
  fastsolve cite seeds3
  fastsolve cite seeds3 dpmpp_2m unipc --bibtex >> references.bib

An entry has the authors as far as the solver's text names them, and no title: see its url.
"""
_ID = r"arXiv (\d{4}\.\d{4,5})"
# "(Lu et al. 2022, arXiv 2211.01095", "(Flow-GRPO: Liu et al. 2025, arXiv ...", "; after Liu et al. 2022, arXiv ..."
_AUTHORS = re.compile(r"(?:[(;:] ?(?:after )?)([^\W\d_][^();:\d]*) (\d{4}), " + _ID)
_SPECIAL = re.compile(r"[&%$#_{}]")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "cite",
        help="say what to cite for a solver",
        description="What to cite for solvers: the source of their formulas, as text or as BibTeX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("names", nargs="+", metavar="NAME", help="a solver")
    command.add_argument("--bibtex", action="store_true", help="print BibTeX; a paper of several solvers comes once")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    if not args.bibtex:
        return "\n".join(f"{name}: {fastsolve.cite(name)}" for name in args.names)
    return "\n\n".join(dict(entry for name in args.names for entry in entries(name)).values())


def entries(name: str) -> Iterator[tuple[str, str]]:
    """Key and text of each BibTeX entry of a solver: one for each paper that its source and its first line name."""
    found = fastsolve.solvers.get(name)
    first = (found.text.__doc__ or "").strip().splitlines()[0]
    papers = dict.fromkeys(re.findall(_ID, f"{found.source} {first}"))
    authors = {paper: (who, year) for who, year, paper in _AUTHORS.findall(first)}
    if not re.search(_ID, found.source):
        yield name, _entry(name, {"howpublished": found.source})
    for paper in papers:
        who, year = authors.get(paper, ("", ""))
        fields = {
            "author": re.sub(r",? et al\.", " and others", re.sub(r", | & ", " and ", who)),
            "year": year,
            "eprint": paper,
            "archivePrefix": "arXiv",
            "url": f"https://arxiv.org/abs/{paper}",
        }
        yield paper, _entry(f"arXiv:{paper}", fields)


def _entry(key: str, fields: dict[str, str]) -> str:
    lines = [
        f"  {field} = {{{value if field == 'url' else _SPECIAL.sub(lambda c: chr(92) + c.group(), value)}}},"
        for field, value in fields.items()
        if value
    ]
    return "\n".join([f"@misc{{{key},", *lines, "}"])

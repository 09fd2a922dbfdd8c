"""Puts the nodes into a ComfyUI: two lines in its custom_nodes folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_TEXT = '''"""Samplers and sigmas of fastsolve. Written by `python -m fastsolve.adapters.comfy`, which removes it with --remove."""
from fastsolve.adapters.comfy import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
'''


def install(root: Path) -> Path:
    """Writes custom_nodes/fastsolve/__init__.py of a ComfyUI; again is the same.

    Raises ValueError for another folder, or where a file of someone else's lies there.
    """
    file = _file(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_TEXT, "utf-8")
    return file


def remove(root: Path) -> Path:
    """Takes it out; nothing where it is not there. Raises ValueError as `install`."""
    file = _file(root)
    if file.exists():
        file.unlink()
        for left in file.parent.glob("__pycache__/__init__.*"):
            left.unlink()
        for folder in (file.parent / "__pycache__", file.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return file


def _file(root: Path) -> Path:
    if not (root / "comfy" / "samplers.py").is_file():
        raise ValueError(f"{root} is not a ComfyUI: give the folder that holds main.py and comfy/samplers.py")
    file = root / "custom_nodes" / "fastsolve" / "__init__.py"
    if file.exists() and "fastsolve.adapters.comfy" not in file.read_text("utf-8"):
        raise ValueError(f"{file} is not ours: it was written by something else, and stays")
    return file


def main(argv: Sequence[str] | None = None) -> int:
    """0 when it was done, 1 where the folder is not a ComfyUI."""
    parser = argparse.ArgumentParser(prog="python -m fastsolve.adapters.comfy", description=__doc__)
    parser.add_argument("comfyui", type=Path, help="the folder of ComfyUI, which holds main.py")
    parser.add_argument("--remove", action="store_true", help="take the nodes out again")
    args = parser.parse_args(argv)
    try:
        file = remove(args.comfyui) if args.remove else install(args.comfyui)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    done = "removed" if args.remove else "start ComfyUI anew, with the Python in which fastsolve is installed"
    sys.stdout.write(f"{file}: {done}\n")
    return 0

"""What installed packages offer, read from their source files: importing them would load torch, which takes seconds."""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def timm_names() -> frozenset[str]:
    """Return the names of timm's architectures; empty where timm is not installed."""
    folder = _folder("timm")
    if folder is None:
        return frozenset()
    entry = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    sources = sorted((folder / "models").glob("*.py"))
    return frozenset(name for source in sources for name in entry.findall(source.read_text(encoding="utf-8")))


@cache
def trainer_arguments() -> frozenset[str]:
    """Return the argument names of Lightning's Trainer."""
    folder = _folder("lightning")
    if folder is None:
        return frozenset()
    tree = ast.parse((folder / "pytorch" / "trainer" / "trainer.py").read_text(encoding="utf-8"))
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    init = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return frozenset(argument.arg for argument in init.args.kwonlyargs + init.args.args[1:])


def is_installed(package: str) -> bool:
    """Say whether a top-level package can be imported, without importing it."""
    return find_spec(package) is not None


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None

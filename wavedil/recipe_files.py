"""The recipes of the package, without the libraries that train by them."""

import re
from pathlib import Path

DEFAULT = "pluck"


def recipe_folder() -> Path:
    """The recipes of the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())


def known_recipes() -> dict[str, Path]:
    """The recipes of the package by name."""
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml"))}


def recipe_summary(path: Path) -> str:
    """The first sentence of the comment at the start of a recipe; empty if it has none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return re.split(r"[.](?:\s|$)", " ".join(lines), maxsplit=1)[0]

"""Texts of docstrings, for the help of commands."""

import inspect
import re
from typing import Any


def argument_texts(function: Any) -> dict[str, str]:
    """The texts in the ``Args`` section of a docstring by argument, without markup."""
    section = re.search(r"^Args:\n((?:(?:    .*)?\n)+)", f"{inspect.getdoc(function)}\n", re.M)
    texts: dict[str, str] = {}
    for names, text in re.findall(
        r"^    (\w[\w, ]*): ((?:.*\n)(?:        .*\n)*)", section[1] if section else "", re.M
    ):
        texts |= dict.fromkeys(re.split(r",\s*", names), plain_text(text))
    return texts


def plain_text(text: str) -> str:
    """A text of a docstring in one line without markup."""
    return re.sub(r":\w+:`~?([^`]*)`|``", r"\1", " ".join(text.split())).rstrip(".")

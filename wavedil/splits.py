"""Hold-out rule: which items of a data set are for validation."""

import os
from collections.abc import Sequence
from pathlib import Path

from wavedil.errors import WavedilError
from wavedil.files import matching_paths

#: By default, one item in this many is held out.
EVERY = 10


def hold_out(
    paths: Sequence[Path],
    validation: str | Sequence[str | os.PathLike[str]] | None = None,
    every: int = EVERY,
    kind: str = "files",
) -> tuple[list[bool], str]:
    """Decides which items are held out for validation.

    The rule uses only the order and the names of the items, so each machine gets the same split.

    Args:
        paths: one for each item, in order.
        validation: None holds out items 0, ``every``, 2 ``every``, …; a regular expression holds out the items whose
            path matches (see :func:`wavedil.files.matching_paths`); a list holds out the items whose path is in it.
        every: one item in this many is held out, if ``validation`` is None.
        kind: plural noun for the items, for descriptions and messages.

    Returns:
        Whether each item is held out, and a description of the rule.

    Raises:
        WavedilError: ``every`` is below 2, ``validation`` is not a regular expression, or it lists a path that is not
            among ``paths``.
    """
    if every < 2:
        raise WavedilError(f"every is {every}: expected 2 or more; 10 holds out a tenth")
    if validation is None:
        return [index % every == 0 for index in range(len(paths))], f"one of every {every} sorted {kind} is held out"
    if isinstance(validation, str):
        held = matching_paths(paths, validation, "validation")
        rule = f"{kind} matching {validation!r} are held out"
    else:
        held = {Path(path) for path in validation}
        missing = sorted(held - set(paths))
        if missing:
            raise WavedilError(
                f"validation lists {missing[0]}, which is not among the {len(paths)} {kind}: write paths as in the "
                f"list of {kind}"
            )
        rule = f"the listed {kind} are held out"
    return [path in held for path in paths], rule


def describe_split(rule: str, num_train: int, num_valid: int, kind: str = "files") -> str:
    """One line about a split: the rule and the number of items on each side.

    Raises:
        WavedilError: there is nothing to train on, or nothing to validate on.
    """
    if not num_train or not num_valid:
        raise WavedilError(
            f"{rule}: {num_train} {kind} to train on and {num_valid} to validate on; both need at least one"
        )
    return f"{rule}: {num_train} for training, {num_valid} for validation"

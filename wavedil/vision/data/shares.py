"""Share of each class among labeled pixels or voxels, and warnings, e.g. about classes without pixels."""

from collections.abc import Sequence

from wavedil.errors import WavedilError, count_text, shortened

_SHOWN = 200  # characters of a list of classes


def class_shares(names: Sequence[str], counts: Sequence[int], known: int) -> dict[str, float]:
    """Percentage of each class among the ``known`` pixels, those that are not ignored."""
    return {name: 100 * int(count) / max(1, known) for name, count in zip(names, counts, strict=True)}


def class_warnings(
    names: Sequence[str], counts: Sequence[int], known: int, *, several: bool = False, unit: str = "pixels"
) -> list[str]:
    """Texts about classes that a network cannot learn: those without pixels, and those of all pixels.

    Args:
        names: of the classes.
        counts: pixels of each class.
        known: pixels that are not ignored.
        several: pixels may have several classes, or none.
        unit: ``"pixels"`` or ``"voxels"``.
    """
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    every = [name for name, count in zip(names, counts, strict=True) if count == known]
    found = []
    if known and every:
        found.append(f"all {unit} that are not ignored are of class {', '.join(every)}: nothing else can be learned")
    if missing and (several or not every):
        found.append(f"classes without {unit}: {shortened(', '.join(missing), _SHOWN)}")
    return found


def describe_classes(
    names: Sequence[str], counts: Sequence[int], known: int, *, source: str, several: bool = False, unit: str = "pixels"
) -> str:
    """Lines about the classes of training masks: their shares, and a warning for each of :func:`class_warnings`.

    Raises:
        WavedilError: no pixel is labeled; ``source`` names the masks.
    """
    if not known:
        raise WavedilError(f"{source}: all {unit} of the training masks are ignored: check ignore_label")
    shares = ", ".join(f"{name} {share:.1f} %" for name, share in class_shares(names, counts, known).items())
    text = f"with their shares of {unit}" + (", of which each may have several" if several else "")
    warnings = class_warnings(names, counts, known, several=several, unit=unit)
    return "\n".join(
        [f"{count_text(len(names), 'class')} {text}: {shares}", *(f"warning: {each}" for each in warnings)]
    )

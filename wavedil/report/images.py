"""Images of dense predictors: image, ground truth, prediction and difference, legend, IoU and confusion matrix."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from wavedil.errors import WavedilError
from wavedil.report.clips import facts_html
from wavedil.report.files import MAX_STEPS, Budget, data_uri, left_out, short, text
from wavedil.report.png import indexed_png
from wavedil.report.run import Media, Run

GAP = 4  # pixels between the three parts of a panel
MAX_CLASSES = 32  # in the confusion matrix
OF_CLASSES = (
    ("IoU", "of a class: pixels that both are and are predicted as the class, divided by pixels that are either."),
    ("recall", "of a class: share of its pixels that are predicted as the class, its accuracy."),
    ("precision", "of a class: share of the pixels predicted as the class that are of it."),
    ("F1", "of a class: harmonic mean of recall and precision, the Dice coefficient."),
    ("boundary F1", "F1 of the class's boundary pixels; one counts as found within 0.75 % of the image's diagonal."),
    ("confusion matrix", "share of the pixels of a true class (row) that are predicted as each class (column), in %."),
    ("difference", "wrong pixels are orange, others dark."),
)
OF_VALUES = (
    ("values", "gray from the smallest (black) to the largest true one (white), blue where they are unknown."),
    ("difference", "distance from the true value: the brighter, the larger."),
)


def split_panel(panel: np.ndarray) -> list[np.ndarray]:
    """Image, ground truth and prediction of a panel ``(height, 3 * width + 2 * GAP, 3)``.

    Raises:
        WavedilError: the width is that of no panel.
    """
    width, rest = divmod(panel.shape[1] - 2 * GAP, 3)
    if rest or width < 1:
        raise WavedilError(f"a panel is {panel.shape[1]} pixels wide: expected three images with {GAP} pixels between")
    return [panel[:, start : start + width] for start in range(0, 3 * (width + GAP), width + GAP)]


def _read(media: Media) -> list[np.ndarray]:
    from wavedil.vision.data.images import read_image

    return split_panel(read_image(media.path))


def _picture(image: np.ndarray) -> str:
    """A data URI: PNG of a small image, JPEG of a large one, which is ten times faster and smaller."""
    from PIL import Image

    buffer = io.BytesIO()
    if image.shape[0] * image.shape[1] > 2**16:
        Image.fromarray(image).save(buffer, "jpeg", quality=90, subsampling=0)
        return data_uri(buffer.getvalue(), "image/jpeg")
    Image.fromarray(image).save(buffer, "png")
    return data_uri(buffer.getvalue(), "image/png")


def _difference(truth: np.ndarray, prediction: np.ndarray, has_classes: bool) -> str:
    error = np.abs(truth.astype(np.int16) - prediction).max(2)
    if has_classes:
        palette = np.array([[40, 44, 52], [240, 150, 40]], np.uint8)
        return data_uri(indexed_png((error > 2).astype(np.uint8), palette), "image/png")
    error[truth.max(2) != truth.min(2)] = 0  # unknown targets are blue
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return data_uri(indexed_png(error.astype(np.uint8), palette), "image/png")


def panels_html(run: Run, media: Sequence[Media], budget: Budget) -> str:
    """A row for each panel: its parts, their difference, and a slider between truth and prediction."""
    has_classes, parts, dropped = bool(classes(run)), [], 0
    media = budget.first(media)
    for index, each in enumerate(media):
        try:
            image, truth, prediction = _read(each)
        except WavedilError as error:
            run.skipped.append(f"{each.path.name}: {error}")
            continue
        pictures = {
            "image": _picture(image),
            "truth": _picture(truth),
            "prediction": _picture(prediction),
            "difference": _difference(truth, prediction, has_classes),
        }
        names = {"truth": "ground truth"}
        kind = "pixels" if image.shape[1] < 240 else "pixels smooth"  # a large one is scaled down
        title = text(short(each.facts.get("file") or each.title("Image")))
        figures = "".join(
            f"<figure class='{kind}' data-part={part}><img alt='{names.get(part, part)} of {title}' src='{uri}'>"
            f"<figcaption>{names.get(part, part)}</figcaption></figure>"
            for part, uri in pictures.items()
        )
        facts = {name: value for name, value in each.facts.items() if name != "file"}
        if has_classes:
            facts["wrong pixels"] = f"{100 * (np.abs(truth.astype(np.int16) - prediction).max(2) > 2).mean():.1f} %"
        html = (
            f"<section class=row aria-label='{title}'><h3>{title}</h3>{facts_html(facts)}"
            f"<div class='pictures five'>{figures}"
            f"<figure class='{kind} comparison' hidden><div class=compare></div><figcaption>ground truth │ prediction"
            "</figcaption><input type=range min=0 max=100 value=50 aria-label='Boundary between ground truth and "
            "prediction'></figure></div></section>"
        )
        if not budget.take(html):
            dropped = len(media) - index
            break
        parts.append(html)
    if dropped:
        budget.notes.append(f"{dropped} images are not in this page, which is limited: they are in the run folder")
    return "".join(parts)


def steps_html(run: Run, media: Sequence[Media], budget: Budget) -> str:
    """A row for each image of the previews: the ground truth, then the newest predictions that fit in the page."""
    rows: dict[int, list[Media]] = {}
    for each in media:
        rows.setdefault(each.row, []).append(each)
    parts, dropped = [], 0
    limit = budget.left // max(1, len(rows))
    for number, all_previews in budget.first(sorted(rows.items())):
        previews = all_previews[-MAX_STEPS:]
        dropped += len(all_previews) - len(previews)
        figures, used, title = [], 0, f"Image {number + 1}"
        for index, each in enumerate(reversed(previews)):
            try:
                _, truth, prediction = _read(each)
            except WavedilError as error:
                run.skipped.append(f"{each.path.name}: {error}")
                continue
            shown = {f"step {each.step}": prediction} | ({} if figures else {"ground truth": truth})
            title = short(each.facts.get("file") or title)
            html = [
                f"<figure class=pixels><img alt='{name} of {text(title)}' src='{_picture(image)}'>"
                f"<figcaption>{name}</figcaption></figure>"
                for name, image in shown.items()
            ]
            if used + len("".join(html)) > limit or not budget.take("".join(html)):
                dropped += len(previews) - index
                break
            used += len("".join(html))
            figures += html if figures else html[::-1]
        if figures:  # ground truth, oldest step ... newest step
            figures = [figures[0], *figures[:0:-1]]
            parts.append(
                f"<section class=row aria-label='{text(title)}'><h3>{text(title)}</h3>"
                f"<div class='pictures small'>{''.join(figures)}</div></section>"
            )
    if dropped:
        budget.notes.append(left_out(dropped))
    return "".join(parts)


def meanings(run: Run) -> tuple[tuple[str, str], ...]:
    """Explanations of the pictures and figures of a run with images."""
    return OF_CLASSES if classes(run) else OF_VALUES


def classes(run: Run) -> list[tuple[str, tuple[int, ...]]]:
    """Names and colors of the classes of a run; empty for a run without classes, or with damaged facts."""
    names, colors = run.about.get("classes"), run.about.get("colors")
    try:
        found = [
            (short(name, 60), tuple(int(value) for value in color)) for name, color in zip(names, colors, strict=True)
        ]
        return found[:256] if all(len(color) == 3 for _, color in found) else []
    except (TypeError, ValueError):
        return []


def classes_html(run: Run) -> str:
    """Legend with the figures of each class, and the confusion matrix of the last validation."""
    known = classes(run)
    if not known:
        return ""
    matrix = _matrix(run.validation, len(known))
    counts, pixels = _counts(run.validation, matrix, len(known))
    figures = {} if counts is None else _figures(counts, run.validation.get("boundary_f1"))
    rows = []
    for index, (name, color) in enumerate(known):
        swatch = f"<span class=swatch style='background:rgb{color}'></span>{text(name)}"
        cells = ""
        if counts is not None:
            iou = figures["IoU"][index]
            bar = (
                "" if iou is None else f"<span class=bar aria-hidden=true><i style='width:{100 * iou:.1f}%'></i></span>"
            )
            shown = ["none" if values[index] is None else f"{values[index]:.3f}" for values in figures.values()]
            shown.append(f"{100 * counts[2, index] / max(1, pixels):.1f} %")
            first, *others = (f"<td class=number>{value}</td>" for value in shown)
            cells = f"{first}<td>{bar}</td>{''.join(others)}"
        rows.append(f"<tr><th scope=row>{swatch}</th>{cells}</tr>")
    titles = [f"<th class=number scope=col>{name}</th>" for name in (*figures, "pixels")]
    head = "" if counts is None else f"{titles[0]}<th scope=col>0 to 1</th>{''.join(titles[1:])}"
    step = "" if counts is None else f"<p class=note>Held-out images at step {text(run.validation.get('step'))}.</p>"
    table = f"<table><thead><tr><th scope=col>class</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<h2>Classes</h2>{step}<div class=scroll>{table}</div>{_matrix_html(known, matrix)}"


def _counts(validation: dict[str, Any], matrix: np.ndarray | None, count: int) -> tuple[np.ndarray | None, int]:
    """Correct, predicted and labeled pixels of each class, ``(3, count)``, and all pixels.

    They are in ``validation`` if pixels may have several classes, so that there is no confusion matrix.
    """
    if matrix is not None:
        return np.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]), int(matrix.sum())
    try:
        counts, pixels = np.array(validation["counts"]), validation["known"]
        is_valid = counts.shape == (3, count) and counts.dtype == np.int64 and isinstance(pixels, int)
        is_valid = is_valid and bool((counts[0] >= 0).all() and (counts[0] <= counts[1:]).all())
        return (counts if is_valid else None), pixels
    except (KeyError, TypeError, ValueError, OverflowError):
        return None, 0


def _figures(counts: np.ndarray, boundary: Any) -> dict[str, list[float | None]]:
    """Figures of each class by their titles, from the counts and the boundary F1 of each class."""
    import torch

    from wavedil.vision.metrics import ClassCounts, finite

    found = ClassCounts(torch.from_numpy(counts))
    figures = {"IoU": found.iou, "recall": found.recall, "precision": found.precision, "F1": found.f1}
    shown = {title: finite(values) for title, values in figures.items()}
    if isinstance(boundary, list) and len(boundary) == counts.shape[1] and all(map(_is_share, boundary)):
        shown["boundary F1"] = boundary
    return shown


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)


def _matrix(validation: dict[str, Any], count: int) -> np.ndarray | None:
    """Pixel counts by label and prediction."""
    try:
        matrix = np.zeros((count, count), np.int64)
        for label, prediction, pixels in validation["confusion"]:
            if min(label, prediction, pixels) < 0:
                return None
            matrix[label, prediction] = pixels
        return matrix
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None


def _matrix_html(known: Sequence[tuple[str, tuple[int, ...]]], matrix: np.ndarray | None) -> str:
    if matrix is None:
        return ""
    order = np.argsort(-matrix.sum(1), kind="stable")[:MAX_CLASSES]
    order.sort()
    note = (
        ""
        if len(known) <= MAX_CLASSES
        else f"<p class=note>The {MAX_CLASSES} most frequent of {len(known)} classes.</p>"
    )
    head = "".join(f"<th scope=col>{text(known[index][0])}</th>" for index in order)
    body = []
    for row in order:
        total = max(1, int(matrix[row].sum()))
        shares = [matrix[row, column] / total for column in order]
        cells = "".join(
            f"<td style='--share:{0.85 * share:.2f}'{' class=strong' if share > 0.5 else ''}>{100 * share:.1f}</td>"
            for share in shares
        )
        body.append(f"<tr><th scope=row>{text(known[row][0])}</th>{cells}</tr>")
    return (
        f"<h3>Confusion matrix</h3><p class=note>Rows: true class. Columns: predicted class. Percent of the true "
        f"class's pixels.</p>{note}<div class=scroll><table class=matrix><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )

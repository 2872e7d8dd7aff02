"""``wavedil check``."""

import argparse
import json
from pathlib import Path

from wavedil.errors import WavedilError, one_of
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil check recordings/ --list broken.txt",
    "wavedil check street/ --images photos --masks labels --plot street.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help="a folder of audio files, or a folder with images and masks (or train and val)"
    )
    parser.add_argument("--images", default="images", help="folder of the images in DATA (default images)")
    parser.add_argument("--masks", default="masks", help="folder of the masks in DATA (default masks)")
    parser.add_argument(
        "--list", metavar="FILE", help="write a list of the files to exclude, for wavedil train --data.exclude @FILE"
    )
    parser.add_argument(
        "--kinds",
        metavar="KIND",
        nargs="+",
        default=["broken"],
        help="problems whose files --list writes, e.g. broken unpaired (default broken)",
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="plot the distributions of the data to a .png, .svg or .pdf file"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Returns 1 if a file is broken."""
    from wavedil.data_check import BROKEN, KINDS, plot
    from wavedil.figures import check_figure_path
    from wavedil.outputs import check_outputs

    unknown = next((kind for kind in arguments.kinds if kind not in KINDS), None)
    if unknown is not None:
        raise WavedilError(f"--kinds {unknown}: expected {one_of(unknown, KINDS, some=True)}")
    if arguments.plot is not None:
        check_figure_path(arguments.plot)
    check_outputs([path for path in (arguments.list, arguments.plot) if path is not None], [arguments.data])
    with Bar("checking") as bar:
        check = _check(arguments, bar)
    if arguments.list is not None:
        number = check.write_list(arguments.list, arguments.kinds)
        check.facts["left out"] = f"{number} files are in {arguments.list}"
    if arguments.plot is not None:
        plot(check, arguments.plot)
    print(json.dumps(check.json(), indent=2) if arguments.json else check)
    return int(bool(check.paths([BROKEN])))


def _check(arguments: argparse.Namespace, bar: Bar):
    from wavedil.audio.data.check import check_recordings
    from wavedil.shards import is_folder
    from wavedil.vision.data.check import check_images
    from wavedil.vision.data.pairs import FolderLayout, parts_of

    root = Path(arguments.data)
    if not root.exists() and not is_folder(root):
        raise WavedilError(f"{root} does not exist: expected a folder of recordings, or of images and masks")
    parts = parts_of(root) or [root]
    if any(is_folder(part / name) for part in parts for name in (arguments.images, arguments.masks)):
        return check_images(root, FolderLayout(arguments.images, arguments.masks), progress=bar.update)
    return check_recordings(root, progress=bar.update)

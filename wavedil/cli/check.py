"""``wavedil check``."""

import argparse
import json
from pathlib import Path

from wavedil.cli.options import keep_recipe_keys
from wavedil.errors import WavedilError, count_text, one_of
from wavedil.progress import Bar

EXAMPLES = (
    "wavedil check recordings/ --list broken.txt",
    "wavedil check street/ --images photos --masks labels --plot street.png",
    "wavedil check VOCdevkit/VOC2012 --format PascalVOC",
    "wavedil check scans/ -c volumes --data.classes [background,organ]",
)
_LAYOUT = ("images", "masks", "image_ending", "mask_ending", "format")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Images may have masks, a folder of masks for each class, or targets; volumes are .nii or .nii.gz. With -c "
        "RECIPE the data are checked as this recipe reads them: with its folders, format, classes and split. All other "
        "options are then keys of the recipe, as in wavedil train."
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="a folder of audio files, or a folder with images or volumes and masks (or train and val); with -c it "
        "replaces data.root of the recipe",
    )
    parser.add_argument(
        "-c", "--config", action="append", metavar="RECIPE", help="check the data as this recipe reads them"
    )
    parser.add_argument(
        "--format", metavar="NAME", help="a published format of images, e.g. PascalVOC, as in a recipe's data"
    )
    parser.add_argument("--images", metavar="NAME", help="folder of the images in DATA (default images)")
    parser.add_argument("--masks", metavar="NAME", help="folder of the masks in DATA (default masks, else targets)")
    parser.add_argument("--image-ending", metavar="END", help="ending of the image names that masks do not have")
    parser.add_argument("--mask-ending", metavar="END", help="ending of the mask names that images do not have")
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
    parser.set_defaults(overrides=[])


take_unknown = keep_recipe_keys


def run(arguments: argparse.Namespace) -> int:
    """Returns 1 if a file is broken."""
    from wavedil.data_check import BROKEN, KINDS, plot
    from wavedil.figures import check_figure_path
    from wavedil.outputs import claim_files

    unknown = next((kind for kind in arguments.kinds if kind not in KINDS), None)
    if unknown is not None:
        raise WavedilError(f"--kinds {unknown}: expected {one_of(unknown, KINDS, some=True)}")
    if arguments.plot is not None:
        check_figure_path(arguments.plot)
    inputs = [path for path in (arguments.data, *(arguments.config or ())) if path is not None]
    with claim_files([arguments.list, arguments.plot], inputs):
        with Bar("checking") as bar:
            check = _check(arguments, bar)
        if arguments.list is not None:
            number = check.write_list(arguments.list, arguments.kinds)
            check.facts["left out"] = f"{count_text(number, 'file')} in {arguments.list}"
        if arguments.plot is not None:
            plot(check, arguments.plot)
    print(json.dumps(check.json(), indent=2) if arguments.json else check)
    return int(bool(check.paths([BROKEN])))


def _check(arguments: argparse.Namespace, bar: Bar):
    chosen = {name: value for name in _LAYOUT if (value := getattr(arguments, name)) is not None}
    if arguments.config is not None:
        if chosen:
            name = next(iter(chosen))
            raise WavedilError(f"--{name.replace('_', '-')} is for DATA without -c: set --data.{name}")
        return _check_recipe(arguments, bar)
    if not arguments.data:
        raise WavedilError("DATA is missing: name a folder, or a recipe with -c")
    from wavedil.audio.data.audio_files import FORMATS
    from wavedil.audio.data.check import check_recordings
    from wavedil.files import walk_files
    from wavedil.shards import is_folder
    from wavedil.vision.data.check import check_images
    from wavedil.vision.data.check_folder import check_folder
    from wavedil.vision.data.formats import find_format
    from wavedil.vision.data.pairs import FolderLayout

    root, name = Path(arguments.data), chosen.pop("format", None)
    if not root.exists() and not is_folder(root):
        raise WavedilError(f"{root} does not exist: expected a folder of recordings, or of images and masks")
    if name is not None:
        if chosen:
            raise WavedilError(f"--format is {name!r}, which has its own folders: leave out --{next(iter(chosen))}")
        return check_images(root, format=find_format(name), progress=bar.update)
    if root.is_file() and root.suffix.lower() not in FORMATS:
        raise WavedilError(f"{root} is not an audio file: expected a folder of recordings, or of images and masks")
    check = check_folder(root, FolderLayout(**chosen), progress=bar.update)
    if check is None and chosen:
        raise WavedilError(f"{root} has no folder {chosen.get('images', 'images')}: expected images and masks")
    try:
        return check or check_recordings(root, progress=bar.update)
    except WavedilError:
        if not is_folder(root) or walk_files(root, FORMATS):
            raise
        raise WavedilError(
            f"{root}: no audio files, and no folder images or masks: name these folders with --images and --masks, or "
            "another layout with --format, or a recipe with -c"
        ) from None


def _check_recipe(arguments: argparse.Namespace, bar: Bar):
    from wavedil.train.check import check_recipe

    overrides = arguments.overrides
    if arguments.data is not None:
        overrides = [*overrides, f"--data.root={arguments.data}"]
    return check_recipe(arguments.config, overrides, progress=bar.update)

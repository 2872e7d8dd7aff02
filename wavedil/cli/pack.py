"""``wavedil pack``."""

import argparse
import dataclasses
import json

from wavedil.progress import Bar

EXAMPLES = (
    "wavedil pack recordings/ packed/",
    "wavedil pack street/ packed/",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help="a folder of audio files, one audio file, or a folder with images and masks"
    )
    parser.add_argument(
        "shards", metavar="SHARDS", help="the folder to write; repeat the command to continue after an interruption"
    )
    parser.add_argument(
        "--exclude",
        metavar="WHICH",
        help="audio files to exclude: a regular expression, or @FILE from wavedil check --list FILE",
    )
    parser.add_argument("--shard-mb", type=int, default=256, help="approximate size of a shard in MB (default 256)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(arguments: argparse.Namespace) -> None:
    from wavedil.errors import check_positive
    from wavedil.packing import pack

    check_positive(**{"--shard-mb": arguments.shard_mb})
    with Bar("packing") as bar:
        result = pack(
            arguments.data,
            arguments.shards,
            exclude=arguments.exclude,
            shard_bytes=arguments.shard_mb * 10**6,
            progress=bar.update,
        )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(result)))
    elif not result.packed_bytes:
        print(f"{result.made} files packed; other processes have not finished")
    else:
        before, after = result.source_bytes / 1e6, result.packed_bytes / 1e6
        print(
            f"{result.files} files in {result.shards} shards, {before:.1f} MB -> {after:.1f} MB: "
            f"wavedil train --data.root {arguments.shards}"
        )

"""``wavedil bench fuzz``: mutates valid files of every kind that the package reads, and reads them.

A reader must return a result or refuse the file by an error in one line. Anything else is a fault: another error, a
crash, more than the allowed memory or time. The files are read in a child process, and one that is a fault is kept.
"""

import argparse
import multiprocessing
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wavedil.bench.fuzz_readers import READERS
from wavedil.bench.runner import fault_row
from wavedil.errors import WavedilError, first_line

MEMORY = 4 * 2**30  # bytes that reading a file may add
SECONDS = 20.0  # for one file
_COLUMNS = ("tries", "refused", "read", "faults")
_NUMBERS = [0, 1, 2**7 - 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
_WORDS = [
    b"nan",
    b"-1",
    b"1e999",
    b"9" * 30,
    b"null",
    b"[]",
    b"{}",
    b"true",
    b'""',
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"&a *a",
]


def mutate(data: bytes, draw: random.Random) -> bytes:
    """``data`` after 1 to 4 random changes: of bits, bytes, numbers, words or parts."""
    content = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        size = len(content)
        # Headers are more interesting than what they describe.
        at = draw.randrange(min(size, 200) if draw.random() < 0.5 else size) if size else 0
        length = min(draw.choice([1, 4, 30, 300]), size)
        digits = list(re.finditer(rb"-?\d+(\.\d+)?", content[:5000])) if size else []
        match draw.randrange(8):
            case 0 if size:
                content[at] ^= 1 << draw.randrange(8)
            case 1 if size:
                content[at : at + length] = draw.randbytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[draw.randrange(size or 1) :][:length]
            case 4:
                del content[at:]
            case 5:
                number = struct.pack(draw.choice("<>") + "Q", draw.choice(_NUMBERS))
                width = draw.choice([1, 2, 4, 8])
                content[at : at + width] = number[:width] if draw.random() < 0.5 else number[-width:]
            case 6 if digits:
                found = draw.choice(digits)
                content[found.start() : found.end()] = draw.choice([*_WORDS, str(draw.choice(_NUMBERS)).encode()])
            case _:
                content[at : at + draw.choice([0, length])] = draw.choice(_WORDS)
    return bytes(content)


def _fault(read: Callable[[Path], Any], path: Path) -> str | None:
    """The fault in the answer to a file; "" if the file was refused in one line, and None if it was read."""
    try:
        read(path)
    except (WavedilError, OSError) as error:
        text = str(error)
        is_line = text and len(text) < 5000 and "\n" not in text
        return "" if is_line or (isinstance(error, OSError) and error.strerror) else f"message: {text[:200]!r}"
    except BaseException as error:  # also KeyboardInterrupt and SystemExit, which no file may cause
        return f"{type(error).__name__}: {first_line(error)[:200]}"
    return None


def _child(reader: str, folder: Path, seed: int, pipe: Any, other: Any) -> None:
    """Reads mutations by their number until the process is killed; each is in its place while it is read."""
    import resource

    other.close()  # the end of the parent, so that recv fails when that has ended

    with open("/proc/self/statm", "rb") if os.path.exists("/proc/self/statm") else open(os.devnull, "rb") as file:
        used = int((file.read().split() or [0])[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  pytest has replaced them
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    valid = {path: path.read_bytes() for path in files}
    path = files[0]
    while True:
        number = pipe.recv()  # ends the process with EOFError if the parent has ended
        path.write_bytes(valid[path])  # not earlier: the parent copies a file that is a fault
        draw = random.Random(f"{reader} {seed} {number}")
        path = draw.choice(files)
        path.write_bytes(mutate(valid[path], draw))
        pipe.send(path)
        pipe.send(_fault(READERS[reader][1], path))


def fuzz(readers: Sequence[str], seconds: float, seed: int, folder: Path) -> dict[str, Counter]:
    """Mutates files for a time, divided among the readers; copies those that are faults to ``folder``.

    Returns:
        Counts of tries, refused and read files and faults by reader.
    """
    counts = {reader: Counter() for reader in readers}
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as place:
        for reader in readers:
            work, valid, number = Path(place, reader), Path(place, "valid"), 0
            work.mkdir()
            make, read = READERS[reader]
            make(work)
            shutil.copytree(work, valid)
            for path in filter(Path.is_file, sorted(work.rglob("*"))):
                read(path)  # also imports what the child needs
            end = time.monotonic() + seconds / len(readers)
            while time.monotonic() < end or not number:
                pipe, other = context.Pipe()
                child = context.Process(target=_child, args=(reader, work, seed, other, pipe), daemon=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for threads of other packages
                    child.start()
                other.close()
                alive = True
                while alive and (time.monotonic() < end or not number):
                    number += 1
                    path, fault = work, "hangs"
                    try:
                        pipe.send(number)
                        path = pipe.recv()
                        if pipe.poll(SECONDS):
                            fault = pipe.recv()
                        else:
                            alive = False
                    except (EOFError, OSError):
                        child.join()
                        alive, fault = False, f"the process ended with status {child.exitcode}"
                    counts[reader].update(["tries", "read" if fault is None else "faults" if fault else "refused"])
                    if fault:
                        kept = folder / f"{reader}-{number}-{path.name}"
                        folder.mkdir(parents=True, exist_ok=True)
                        shutil.copy(path, kept)
                        print(f"{reader}: {fault}; {kept}", file=sys.stderr, flush=True)
                child.kill()
                child.join()
                pipe.close()
                if not alive:
                    shutil.rmtree(work)
                    shutil.copytree(valid, work)
            shutil.rmtree(valid)
    return counts


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=1.0, help="fuzz: duration (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--reader", metavar="NAME", help=f"one of {', '.join(READERS)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("fuzz"), help="for files that are faults (default: fuzz)")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a table; returns a row for each reader."""
    if arguments.reader not in (None, *READERS):
        raise WavedilError(f"--reader is {arguments.reader!r}: expected one of {', '.join(READERS)}")
    if not 0 < arguments.minutes <= 10**6:
        raise WavedilError(f"--minutes is {arguments.minutes}: expected a number above 0")
    readers = [arguments.reader] if arguments.reader else list(READERS)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    counts = fuzz(readers, 60 * arguments.minutes, arguments.seed, arguments.folder)
    counts["all"] = sum(counts.values(), Counter())
    print(f"{'reader':12}" + "".join(f"{name:>10}" for name in _COLUMNS))
    for reader, found in counts.items():
        print(f"{reader:12}" + "".join(f"{found[name]:10}" for name in _COLUMNS))
    return [fault_row(reader, counts[reader]) for reader in readers]

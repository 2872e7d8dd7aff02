"""Reads ``metrics.csv`` of a run."""

import sys
from contextlib import suppress
from pathlib import Path


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Returns the complete rows of ``metrics.csv``, or an empty list if the file is missing.

    Rows that a crash or a power cut left incomplete are dropped, and one message says how many.
    """
    if not path.is_file():
        return []
    *lines, incomplete = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    texts = [line.rstrip("\r") for line in lines]
    columns = texts[0].split(",") if texts else []
    rows = []
    if "step" in columns and "seconds" in columns:
        for text in texts[1:]:
            with suppress(ValueError):
                row = dict(zip(columns, text.split(","), strict=True))
                numbers = {column: float(value) for column, value in row.items()}
                if int(row["step"]) >= 0 and numbers["seconds"] >= 0:
                    rows.append(row)
    dropped = max(0, len(texts) - 1) - len(rows) + bool(incomplete)
    if dropped:
        print(f"{path}: {dropped} damaged {'row is' if dropped == 1 else 'rows are'} dropped", file=sys.stderr)
    return rows

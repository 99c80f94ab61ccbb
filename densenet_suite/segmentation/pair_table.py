"""A table that says which mask belongs to which image: a CSV file with the columns image, mask and perhaps split."""

import csv
from collections.abc import Mapping
from pathlib import Path

from densenet_suite.errors import DataError, Problem
from densenet_suite.segmentation.pairing import SHOWN, SPLIT_NAMES, Pair, PairedFiles, stays_inside


def find_table(root: Path, split: str, alias: str) -> Path | None:
    """Find the table of a split below a dataset's folder: <alias>.csv, or one with a column split that names it.

    Raises:
        DataError: several tables have a column split.
    """
    named = root / f"{alias}.csv"
    if named.is_file() and {"image", "mask"} <= _columns(named):
        return named
    tables = [path for path in sorted(root.glob("*.csv")) if {"image", "mask", "split"} <= _columns(path)]
    if len(tables) > 1:
        raise DataError(
            f"several tables could say where the {split} split is: {', '.join(path.name for path in tables)}",
            where=str(root),
            hint=f"name one: data.{split}.images=. data.{split}.masks={tables[0].name}",
        )
    has_rows = bool(tables) and any(row["split"] in SPLIT_NAMES[split] for row in _rows(tables[0]))
    return tables[0] if has_rows else None


def _columns(table: Path) -> set[str]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return {name.strip() for name in next(csv.reader(file), [])}


def _rows(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table; a cell that is not there is empty."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, restval="", skipinitialspace=True)
            return [{str(name).strip(): str(cell).strip() for name, cell in row.items()} for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table cannot be read: {error}", where=str(table)) from None


def read_table(table: Path, images: Path, split: str) -> PairedFiles:
    """Read the rows of a split; images are relative to `images`, masks to the table's folder.

    Raises:
        DataError: the table cannot be read, or rows name no image, a strange split, or files outside the folder.
    """
    rows = _rows(table)
    missing = {"image", "mask"} - _columns(table)
    if missing:
        raise DataError(
            f"table has no column {' and no column '.join(sorted(missing))}",
            where=str(table),
            hint="the first line names the columns: image,mask or image,mask,split",
        )
    problems: list[Problem] = []
    pairs: dict[Path, Pair] = {}
    unlabelled: list[Path] = []
    for line, row in enumerate(rows, start=2):
        problem = _row_problem(row)
        if problem:
            problems.append(Problem(problem, f"{table}:{line}"))
        elif row.get("split", split) in SPLIT_NAMES[split]:
            image = images / row["image"]
            if image in pairs:
                problems.append(Problem(f"image {row['image']} is named twice", f"{table}:{line}"))
            elif not row["mask"]:
                unlabelled.append(image)
            else:
                pairs[image] = Pair(image, (table.parent / row["mask"],))
    if problems:
        raise DataError(problems[:SHOWN])
    hint = "every row needs a mask" if unlabelled else None
    return PairedFiles(table, tuple(pairs.values()), (), tuple(unlabelled), (), hint)


def _row_problem(row: Mapping[str, str]) -> str | None:
    known = [alias for names in SPLIT_NAMES.values() for alias in names]
    if not row["image"]:
        return "the row names no image"
    if "split" in row and row["split"] not in known:
        return f"split {row['split']!r} is none of {', '.join(known)}"
    for name in (row["image"], row["mask"]):
        if not stays_inside(name):
            return f"{name!r} leads out of the dataset's folder"
    return None

"""Boxes in a table: a CSV file with the columns image, xmin, ymin, xmax, ymax, class, and perhaps split and crowd.

The columns may have the other names of `layout.COLUMNS`, and there may be more of them. Corners are edges in pixels
from the upper left, so that xmax - xmin is the width. Every object has a row of its own; a row whose four corners are
empty says that its picture has no objects. A 1 in the column crowd marks a region that holds many objects, which
training leaves out.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from densenet_suite.detection.annotation_checks import (
    ListedBox,
    ListedImage,
    assemble,
    check_headers,
    read_annotation_text,
    stays_inside,
    to_number,
)
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.layout import COLUMNS, SPLIT_NAMES, column_numbers
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_csv(
    name: str,
    table: Path | str,
    images: Path | str,
    classes: ClassTable | None = None,
    findings: Findings | None = None,
) -> DetectionSet:
    """Read a split from a table.

    Args:
        name: of the split; where the table has a column split, the rows that name it.
        table: the CSV file.
        images: the folder that its file names are relative to.
        classes: those of the training split or the model, matched by name; None for the names that occur, sorted.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: the table cannot be read, or holds faults that would make a run wrong: all kinds at once.
    """
    table, images = Path(table), Path(images)
    findings = findings or Findings(str(table))
    listed: dict[str, tuple[ListedImage, list[ListedBox]]] = {}
    for line, row in _rows(table):
        place = f"{table.name}:{line}"
        if not _is_of(row, name, place, findings):
            continue
        file_name = row["image"]
        if not file_name or not stays_inside(file_name):
            findings.error(
                "file-name",
                f"{place}: image {file_name!r} names no file in the image folder",
                "file names are relative to the image folder and stay inside it",
            )
            continue
        image = ListedImage(len(listed) + 1, images / file_name, place)
        boxes = listed.setdefault(file_name, (image, []))[1]
        box = _read_box(row, place, findings)
        if box is not None:
            boxes.append(box)
    check_headers([image for image, _ in listed.values()], findings)
    findings.raise_errors()
    return assemble(name, table, list(listed.values()), classes, None, findings)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their lines; a cell that is not there is empty."""
    reader = csv.reader(io.StringIO(read_annotation_text(table), newline=""))
    rows = []
    try:
        header = next(reader, [])
        columns = column_numbers(header)
        missing = COLUMNS.keys() - columns.keys()
        if missing:
            raise DataError(
                f"table has no column {', '.join(column for column in COLUMNS if column in missing)}",
                where=f"{table}:1",
                hint=f"the first line names the columns, separated by commas: {','.join(COLUMNS)}",
            )
        for cells in reader:
            row = {column: cells[i].strip() if i < len(cells) else "" for column, i in columns.items()}
            if any(cells):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"table cannot be read: {error}", where=f"{table}:{reader.line_num}") from None
    return rows


def _is_of(row: Mapping[str, str], name: str, place: str, findings: Findings) -> bool:
    """Say whether a row belongs to a split."""
    if "split" not in row:
        return True
    wanted = SPLIT_NAMES.get(name, (name,))
    known = dict.fromkeys(alias for aliases in (*SPLIT_NAMES.values(), wanted) for alias in aliases)
    if row["split"] not in known:
        findings.error("split-unknown", f"{place}: split {row['split']!r} is none of {', '.join(known)}")
    return row["split"] in wanted


def _read_box(row: Mapping[str, str], place: str, findings: Findings) -> ListedBox | None:
    texts = [row[corner] for corner in _CORNERS]
    if not any(texts):
        return None
    numbers = [number for text in texts if (number := to_number(text)) is not None]
    if len(numbers) != 4:
        findings.error("box-format", f"{place}: box is {texts}, not four numbers")
        return None
    if not row["class"]:
        findings.error("class-missing", f"{place}: the box has no class")
        return None
    crowd = row.get("crowd", "")
    if crowd not in ("", "0", "1"):
        findings.error("crowd", f"{place}: crowd is {crowd!r}, and neither 1 nor 0 nor empty")
        return None
    x1, y1, x2, y2 = numbers
    return ListedBox(row["class"], (x1, y1, x2, y2), f"{place}: box {numbers}", crowd == "1")

"""Splits written into a dataset's own folder, as lists and annotation files; no picture is copied or moved.

What a new file takes the place of is kept beside it, with .old behind its name; an .old that is there already is the
older one, and stays.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.files import write_text

SPLITS = ("train", "val", "test")
SplitOf = Mapping[Path, str | None]  # the split of each image; None: put aside


@dataclass
class NewFiles:
    """The files of a division, before any is written."""

    texts: dict[Path, str] = field(default_factory=dict)

    def write(self, overwrite: bool) -> list[Path]:
        """Write them, and return their paths.

        Raises:
            ConfigError: one is there, and is not to be overwritten; none has been written then.
        """
        there = [path for path in self.texts if path.exists()]
        if there and not overwrite:
            raise ConfigError(
                f"{', '.join(path.name for path in there)} would be overwritten",
                where=str(there[0].parent),
                hint="--overwrite does so, and keeps the old with .old behind the name",
            )
        for path, text in self.texts.items():
            old = path.with_name(f"{path.name}.old")
            if path.exists() and not old.exists():
                path.rename(old)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        return list(self.texts)


def relative(path: Path, folder: Path) -> str:
    """Return a path as a dataset's file names it.

    Raises:
        DataError: it is not below the folder.
    """
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        raise DataError(
            f"{path} does not lie in {folder}, which the files of the splits name it by",
            hint="pictures in one folder, images/, can be divided whatever their format",
        ) from None


def lists(
    splits: Sequence[str], split_of: SplitOf, place: Callable[[str], Path], key: Callable[[Path], str]
) -> NewFiles:
    """Return a list of names for each split."""
    files = NewFiles()
    for split in splits:
        names = sorted(key(path) for path, given in split_of.items() if given == split)
        files.texts[place(split)] = "".join(f"{name}\n" for name in names)
    return files


def mask_table(table: Path, pairs: Sequence[tuple[Path, Path]], split_of: SplitOf, kept: NewFiles) -> None:
    """Add a table of images, masks and splits; all lie below the folder of the table."""
    rows = [
        (relative(image, table.parent), relative(mask, table.parent), split)
        for image, mask in pairs
        if (split := split_of[image]) is not None
    ]
    kept.texts[table] = _csv_text([("image", "mask", "split"), *sorted(rows)])


def box_tables(
    root: Path, splits: Sequence[str], sources: Sequence[tuple[Path, Path, int]], split_of: SplitOf
) -> NewFiles:
    """Return a table of boxes for each split: rows as they were, but for the names of pictures.

    Args:
        root: of the dataset.
        splits: to write.
        sources: tables, the folder that each one's names are relative to, and the number of their column.
        split_of: of each picture.
    """
    rows: dict[str, list[list[str]]] = {split: [] for split in splits}
    header: list[str] = []
    for table, images, column in sources:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            head = [name.strip() for name in next(reader)]
            own = [i for i, name in enumerate(head) if name.lower() != "split"]
            if header and [head[i] for i in own] != header:
                raise DataError(f"tables differ in their columns: {header} and {head}", where=str(table))
            header = [head[i] for i in own]
            for cells in reader:
                path = images / cells[column].strip() if len(cells) > column else None
                split = split_of.get(path) if path is not None else None
                if path is not None and split in rows:
                    cells[column] = relative(path, root)
                    rows[split].append([cells[i] for i in own if i < len(cells)])
    return NewFiles({root / f"{split}.csv": _csv_text([header, *rows[split]]) for split in splits})


def coco_files(
    root: Path,
    splits: Sequence[str],
    sources: Sequence[tuple[Path, Path]],
    split_of: SplitOf,
    folder_of: Callable[[str, Sequence[Path]], Path],
) -> NewFiles:
    """Return a COCO instances file for each split, with all that the old ones say of its images.

    Args:
        root: of the dataset.
        splits: to write.
        sources: COCO files, and the folder that the names of each are relative to.
        split_of: of each picture.
        folder_of: which folder names are relative to, by split and pictures.

    Raises:
        DataError: the files differ in their categories.
    """
    contents = [json.loads(file.read_text(encoding="utf-8-sig")) for file, _ in sources]
    first = contents[0]
    for (file, _), content in zip(sources, contents, strict=True):
        if content["categories"] != first["categories"]:
            raise DataError(
                "categories, or their ids, are others than in the train split",
                where=str(file),
                hint="densenet-suite data convert writes splits with the same ones",
            )
    parts = {split: _part(split, sources, contents, split_of, folder_of) for split in splits}
    rest = {key: value for key, value in first.items() if key not in ("images", "annotations")}
    return NewFiles(
        {
            root / "annotations" / f"instances_{split}.json": json.dumps({**rest, **part}, ensure_ascii=False)
            for split, part in parts.items()
        }
    )


def _part(
    split: str,
    sources: Sequence[tuple[Path, Path]],
    contents: Sequence[Mapping[str, Any]],
    split_of: SplitOf,
    folder_of: Callable[[str, Sequence[Path]], Path],
) -> dict[str, list[Any]]:
    """Return the images and annotations of a split; ids that several files have given are numbered anew."""
    chosen = [
        (number, image, images / image["file_name"])
        for number, ((_, images), content) in enumerate(zip(sources, contents, strict=True))
        for image in content["images"]
        if split_of.get(images / image["file_name"]) == split
    ]
    folder = folder_of(split, [path for _, _, path in chosen])
    ids = {(number, image["id"]): image["id"] for number, image, _ in chosen}
    if len(set(ids.values())) < len(ids):
        ids = {key: i for i, key in enumerate(ids, start=1)}
    kept_images = [
        {**image, "id": ids[number, image["id"]], "file_name": relative(path, folder)} for number, image, path in chosen
    ]
    annotations = [
        {**each, "image_id": ids[number, each["image_id"]]}
        for number, content in enumerate(contents)
        for each in content["annotations"]
        if (number, each.get("image_id")) in ids
    ]
    given = [each.get("id") for each in annotations]
    if len(set(given)) < len(given):
        annotations = [{**each, "id": i} for i, each in enumerate(annotations, start=1)]
    return {"images": kept_images, "annotations": annotations}


def yolo_files(data: Path, content: Mapping[str, Any], splits: Sequence[str], split_of: SplitOf) -> NewFiles:
    """Return a list of pictures for each split, and the yaml that names the lists."""
    root = data.parent
    files = lists(splits, split_of, lambda split: root / f"{split}.txt", lambda path: relative(path, root))
    keys = {alias for split in splits for alias in ({"val": ("val", "valid", "validation")}.get(split, (split,)))}
    kept = {key: value for key, value in content.items() if key not in keys and key != "path"}
    named = {**{split: f"{split}.txt" for split in splits}, **kept}
    files.texts[data] = yaml.safe_dump(named, sort_keys=False, allow_unicode=True)
    return files


def _csv_text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()

"""A set written out in the other formats, by few lines that share nothing with the readers."""

import csv
import json
import shutil
from pathlib import Path

import yaml
from PIL import Image


def _coco(source: Path, split: str):
    """Yield picture, size, and the boxes as (class name, x, y, width, height, crowd)."""
    content = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    for image in content["images"]:
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        path = source / "images" / split / image["file_name"]
        with Image.open(path) as picture:
            size = picture.size
        yield path, size, [(names[a["category_id"]], *a["bbox"], a["iscrowd"]) for a in mine]


def class_names(source: Path) -> list[str]:
    content = json.loads((source / "annotations" / "instances_train.json").read_text())
    return [entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])]


def write_voc(source: Path, root: Path, splits) -> Path:
    """Annotations, JPEGImages, ImageSets/Main; corners from 1, the last one included."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in splits:
        names = []
        for path, (width, height), boxes in _coco(source, split):
            shutil.copy(path, root / "JPEGImages")
            names.append(path.stem)
            objects = "".join(
                f"<object>\n<name>{name}</name><difficult>{crowd}</difficult><bndbox><xmin>{x + 1}</xmin>"
                f"<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>\n"
                for name, x, y, w, h, crowd in boxes
            )
            (root / "Annotations" / f"{path.stem}.xml").write_text(
                f"<annotation><filename>{path.name}</filename>\n"
                f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n{objects}</annotation>"
            )
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_yolo(source: Path, root: Path, splits) -> Path:
    """images/<split>, labels/<split>, data.yaml; six decimals, as most tools write; no file where nothing is."""
    classes = class_names(source)
    for split in splits:
        pictures, labels = root / "images" / split, root / "labels" / split
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        for path, (width, height), boxes in _coco(source, split):
            shutil.copy(path, pictures)
            lines = [
                f"{classes.index(name)} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} "
                f"{w / width:.6f} {h / height:.6f}\n"
                for name, x, y, w, h, _ in boxes
            ]
            if lines:
                (labels / f"{path.stem}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(
        yaml.safe_dump({"names": classes, **{split: f"images/{split}" for split in splits}})
    )
    return root


def write_csv(source: Path, root: Path, splits) -> Path:
    """<split>.csv and images/<split>; a row without corners for a picture without objects."""
    for split in splits:
        pictures = root / "images" / split
        pictures.mkdir(parents=True)
        with open(root / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "xmin", "ymin", "xmax", "ymax", "class"])
            for path, _, boxes in _coco(source, split):
                shutil.copy(path, pictures)
                table.writerows([path.name, x, y, x + w, y + h, name] for name, x, y, w, h, _ in boxes)
                if not boxes:
                    table.writerow([path.name, "", "", "", "", ""])
    return root


WRITERS = {"voc": write_voc, "yolo": write_yolo, "csv": write_csv}

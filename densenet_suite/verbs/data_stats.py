"""`data stats`: what is in a dataset, in numbers and figures."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.detection.anchor_coverage import object_sides
from densenet_suite.detection.box_table import BoxTable
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.files import write_json
from densenet_suite.image_opening import read_header
from densenet_suite.moments import Moments, image_moments
from densenet_suite.report.data_figures import plot_classes, plot_counts, plot_sides, plot_sizes
from densenet_suite.verbs.dataset import open_dataset

Array = np.ndarray[Any, Any]
_READERS = 4
_MOST_READ = 2000  # images whose pixels are read


@dataclass(frozen=True)
class DataStats:
    """The numbers of a dataset, as plain values, and its figures."""

    values: Mapping[str, Any]
    figures: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self.values, "figures": [str(path) for path in self.figures]}

    def __str__(self) -> str:
        lines = [f"{self.values['place']}: {self.values['task']}"]
        for name, split in self.values["splits"].items():
            lines.append(f"{name}: {split['images']} images")
            for key in ("height", "width", "aspect", "objects_per_image", "object_sides", "object_sides_to_network"):
                if key in split:
                    shown = "  ".join(f"{of} {value:g}" for of, value in split[key].items())
                    lines.append(f"  {key.replace('_', ' ')}: {shown}")
            lines += [f"  {_class_line(of, counts)}" for of, counts in split["classes"].items()]
        pixels = self.values["pixels"]
        read = "" if pixels["images_read"] == pixels["images"] else f", of {pixels['images_read']} images evenly spread"
        lines.append(
            f"pixels of the {pixels['split']} split ({pixels['dtype']}{read}), without those that have no data"
        )
        for i, (mean, deviation) in enumerate(zip(pixels["mean"], pixels["std"], strict=True), 1):
            lines.append(f"  band {i}: mean {mean:.6g}  deviation {deviation:.6g}")
        return "\n".join([*lines, *(str(path) for path in self.figures)])


def data_stats(
    place: str | Path, overrides: Sequence[str] = (), *, task: str | None = None, out: str | Path | None = None
) -> DataStats:
    """Count what is in a dataset: sizes, shapes, objects or pixels of each class, and the statistics of the bands.

    Args:
        place: folder of a dataset, config file, or run folder.
        overrides: changes of the config, such as "data.size=512".
        task: detection or segmentation, where a folder holds both.
        out: folder for figures and stats.json; None for none.

    Raises:
        ConfigError: the config is wrong, or there is no such task.
        DataError: the dataset is faulty.
    """
    opened = open_dataset(place, overrides, task=task)
    splits = opened.data.splits
    if not splits:
        opened.data.split("train")  # says what is missing
    size = opened.config.input_size
    described = {
        name: _of_boxes(split, size) if isinstance(split, DetectionSet) else _of_masks(split)
        for name, split in splits.items()
    }
    values = {
        "place": str(place),
        "task": opened.config.task,
        "network": list(size),
        "splits": described,
        "pixels": _of_pixels(next(iter(splits)), next(iter(splits.values()))),
    }
    if out is None:
        return DataStats(values)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = DataStats(values, tuple(_draw(splits, described, size, folder)))
    write_json(folder / "stats.json", found.to_dict())
    return found


def _of_boxes(split: DetectionSet, size: tuple[int, int]) -> dict[str, Any]:
    table = BoxTable.of(split)
    per_image = np.bincount(table.image[table.trained], minlength=len(split))
    return {
        **_of_sizes(table.sizes),
        "objects": int(table.trained.sum()),
        "crowd_regions": int(table.crowd.sum()),
        "objects_per_image": _spread(per_image),
        "object_sides": _spread(_file_sides(table)),
        "object_sides_to_network": _spread(object_sides(table, size)),
        "classes": {
            name: {
                "objects": int(((table.labels == i) & table.trained).sum()),
                "images": len(np.unique(table.image[(table.labels == i) & table.trained])),
            }
            for i, name in enumerate(split.classes.names)
        },
    }


def _of_masks(split: Any) -> dict[str, Any]:
    known = np.maximum(split.known_counts.sum(0), 1)
    pixels = split.pixel_counts.sum(0)
    return {
        **_of_sizes(_scene_sizes(split)),
        "classes": {
            name: {
                "pixels": int(pixels[i]),
                "share": round(float(pixels[i] / known[i]), 6),
                "images": int((split.pixel_counts[:, i] > 0).sum()),
            }
            for i, name in enumerate(split.classes.names)
        },
    }


def _of_sizes(sizes: Array) -> dict[str, Any]:
    return {
        "images": len(sizes),
        "height": _spread(sizes[:, 0]),
        "width": _spread(sizes[:, 1]),
        "aspect": _spread(sizes[:, 1] / sizes[:, 0]),
    }


def _spread(values: Array) -> dict[str, float]:
    if not len(values):
        return {}
    names = {"least": 0, "p5": 5, "median": 50, "p95": 95, "most": 100}
    return {name: round(float(np.percentile(values, share)), 3) for name, share in names.items()}


def _of_pixels(name: str, split: Any) -> dict[str, Any]:
    """Return mean and deviation of the bands, of images evenly spread over a split."""
    paths = [split.paths[i] for i in np.unique(np.linspace(0, len(split) - 1, _MOST_READ).astype(int))]
    if isinstance(split, DetectionSet):
        dtype = "uint8"
        with ThreadPoolExecutor(_READERS) as pool:
            bands = max(pool.map(lambda path: read_header(path).bands, paths))
    else:
        dtype = "/".join(sorted({scene.dtype for scene in split.scenes}))
        bands = max(scene.bands for scene in split.scenes)
    moments = Moments.none(bands)
    with ThreadPoolExecutor(_READERS) as pool:
        for part in pool.map(lambda path: image_moments(path, bands), paths):
            moments = moments.plus(part)
    deviation = np.sqrt(moments.squares / max(1, moments.pixels))
    return {
        "split": name,
        "images": len(split),
        "images_read": len(paths),
        "dtype": dtype,
        "pixels": moments.pixels,
        "mean": moments.mean.tolist(),
        "std": deviation.tolist(),
    }


def _draw(
    splits: Mapping[str, Any], described: Mapping[str, Any], size: tuple[int, int], folder: Path
) -> Sequence[Path]:
    first = next(iter(splits.values()))
    boxes = isinstance(first, DetectionSet)
    drawn = [folder / "sizes.png", folder / "classes.png"]
    tables = {name: BoxTable.of(split) for name, split in splits.items()} if boxes else {}
    sizes = {name: tables[name].sizes if boxes else _scene_sizes(split) for name, split in splits.items()}
    plot_sizes(sizes, drawn[0])
    key, unit, factor = ("objects", "objects", 1) if boxes else ("share", "% of the labelled pixels", 100)
    names = first.classes.names
    counts = {
        name: factor * np.array([entry["classes"][of][key] for of in names], np.float64)
        for name, entry in described.items()
    }
    plot_classes(names, counts, unit, drawn[1])
    if boxes:
        drawn += [folder / "objects_per_image.png", folder / "object_sides.png"]
        plot_counts(
            {name: np.bincount(t.image[t.trained], minlength=len(t.sizes)) for name, t in tables.items()}, drawn[2]
        )
        table = next(iter(tables.values()))
        plot_sides(_file_sides(table), object_sides(table, size), size, drawn[3])
    return drawn


def _scene_sizes(split: Any) -> Array:
    return np.array([(scene.height, scene.width) for scene in split.scenes], np.int64).reshape(-1, 2)


def _file_sides(table: BoxTable) -> Array:
    boxes = table.clipped()[table.trained]
    return np.asarray(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))


def _class_line(name: str, counts: Mapping[str, float]) -> str:
    if "share" in counts:
        return f"{name}: {100 * counts['share']:.2f} % of the pixels, in {counts['images']} images"
    return f"{name}: {counts['objects']} objects in {counts['images']} images"

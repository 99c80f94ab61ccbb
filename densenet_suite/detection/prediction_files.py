"""Predictions to files as they come: memory does not grow with the number of pictures."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from densenet_suite.detection.prediction import Prediction
from densenet_suite.errors import ConfigError
from densenet_suite.files import atomic_write

OUTPUTS = ("pictures", "coco", "csv")


def save_predictions(
    predictions: Iterable[Prediction], out: str | Path, outputs: Sequence[str] = OUTPUTS
) -> Iterator[Prediction]:
    """Write predictions to a folder while they pass through.

    Args:
        predictions: from `predict`.
        out: the folder; made if it is missing.
        outputs: "pictures" (drawn), "coco" (predictions.coco.json, with the images and categories it speaks of) and
            "csv" (predictions.csv, a row for each object).

    Yields:
        each prediction, once it is written. The two tables take their place after the last one, also where some files
        could not be read.

    Raises:
        ConfigError: an unknown output.
    """
    unknown = set(outputs) - set(OUTPUTS)
    if unknown:
        raise ConfigError(f"cannot save {', '.join(sorted(unknown))}", hint=f"known are {', '.join(OUTPUTS)}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return _saving(predictions, folder, outputs)


def _saving(predictions: Iterable[Prediction], folder: Path, outputs: Sequence[str]) -> Iterator[Prediction]:
    with ExitStack() as stack:
        table = (
            _CsvTable(stack.enter_context(atomic_write(folder / "predictions.csv", "w"))) if "csv" in outputs else None
        )
        document = None
        if "coco" in outputs:
            annotations = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            document = _CocoDocument(
                stack.enter_context(atomic_write(folder / "predictions.coco.json", "w")), annotations
            )
        names: set[str] = set()
        failure: Exception | None = None
        try:
            for prediction in predictions:
                if "pictures" in outputs:
                    prediction.draw().save(folder / _free_name(prediction.path, names), quality=92)
                if table is not None:
                    table.add(prediction)
                if document is not None:
                    document.add(prediction)
                yield prediction
        except Exception as error:  # the files hold what came before
            failure = error
        if document is not None:
            document.finish()
    if failure is not None:
        raise failure


class _CsvTable:
    """predictions.csv."""

    def __init__(self, file: IO[str]):
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(["path", "class", "score", "x1", "y1", "x2", "y2"])

    def add(self, prediction: Prediction) -> None:
        for name, score, box in zip(prediction.names, prediction.scores, prediction.boxes, strict=True):
            self.writer.writerow(
                [
                    str(prediction.path),
                    name,
                    round(float(score), 5),
                    *(round(float(value), 2) for value in box),
                ]
            )


class _CocoDocument:
    """predictions.coco.json, written in one pass: annotations wait in a second file until the images are through."""

    def __init__(self, file: IO[str], annotations: IO[str]):
        self.file = file
        self.annotations = annotations
        self.images = 0
        self.objects = 0
        self.categories: list[dict[str, Any]] = []
        file.write('{"images": [')

    def add(self, prediction: Prediction) -> None:
        height, width = prediction.size
        self.images += 1
        image = {"id": self.images, "file_name": str(prediction.path), "height": height, "width": width}
        self.file.write((", " if self.images > 1 else "") + json.dumps(image))
        for result in prediction.to_coco(self.images):
            self.objects += 1
            area = round(result["bbox"][2] * result["bbox"][3], 2)
            annotation = {"id": self.objects, **result, "area": area, "iscrowd": 0}
            self.annotations.write((", " if self.objects > 1 else "") + json.dumps(annotation))
        classes = prediction.classes
        self.categories = [{"id": key, "name": name} for key, name in zip(classes.ids, classes.names, strict=True)]

    def finish(self) -> None:
        self.file.write(f'], "categories": {json.dumps(self.categories)}, "annotations": [')
        self.annotations.seek(0)
        shutil.copyfileobj(self.annotations, self.file)
        self.file.write("]}\n")


def _free_name(path: Path, taken: set[str]) -> str:
    """Return a name for the drawn picture; files of one name in several folders get a number."""
    name, number = f"{path.stem}.jpg", 1
    while name in taken:
        number += 1
        name = f"{path.stem}-{number}.jpg"
    taken.add(name)
    return name

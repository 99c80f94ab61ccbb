"""From image files to objects in their pixels: what `predict` gives its user."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from densenet_suite.detection.metric import to_file
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import ClassTable, Detections
from densenet_suite.drawing import draw_boxes, enlarged
from densenet_suite.errors import DataError
from densenet_suite.geometry import Letterbox
from densenet_suite.images import read_pixels

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prediction:
    """The objects found in one file, best first.

    Attributes:
        path: of the file.
        size: (height, width) of the upright picture.
        boxes: [n 4] xyxy in pixels of the upright picture.
        scores: [n] from 0 to 1.
        labels: [n] 0..k-1.
        classes: what the labels stand for.
    """

    path: Path
    size: tuple[int, int]
    boxes: Array
    scores: Array
    labels: Array
    classes: ClassTable

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.classes.names[label] for label in self.labels]

    def draw(self) -> Image.Image:
        """Return the picture with boxes, names and scores; a small one is enlarged."""
        pixels, boxes = enlarged(read_pixels(self.path, 3)[0], self.boxes)
        texts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return Image.fromarray(draw_boxes(pixels, boxes, self.labels.tolist(), texts))

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return COCO results: x, y, width, height, and category ids of the dataset that the model was trained on."""
        return [
            {
                "image_id": image_id,
                "category_id": self.classes.ids[label],
                "bbox": [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(float(score), 5),
            }
            for (x1, y1, x2, y2), score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]


class Predictor:
    """Runs a detector over files, a few at a time.

    Args:
        model: the detector, best as `fusing.fuse` makes it; put into evaluation.
        input_size: (height, width) that images are letterboxed to.
        postprocess: how detections are chosen.
        device: where the network runs.
        batch: images at a time.
    """

    def __init__(
        self,
        model: EfficientDet,
        input_size: tuple[int, int],
        postprocess: Postprocess,
        device: torch.device | str = "cpu",
        batch: int = 8,
    ):
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.input_size = input_size
        self.postprocess = postprocess
        self.device = device
        self.batch = batch

    def __call__(self, paths: Iterable[Path]) -> Iterator[Prediction]:
        """Yield a prediction for each file that can be read, as they come.

        Raises:
            DataError: at the end, where files could not be read; it names them all.
        """
        failed: list[DataError] = []
        remaining = iter(paths)
        with ThreadPoolExecutor(4) as pool:
            while chunk := list(islice(remaining, self.batch)):
                read = [item for item in pool.map(self._read, chunk) if not _failed(item, failed)]
                yield from self._predict(read)
        if failed:
            raise DataError([problem for error in failed for problem in error.problems])

    def _read(self, path: Path) -> tuple[Path, Array, Letterbox] | DataError:
        normalization = self.model.preprocess.normalization
        try:
            pixels, record = read_pixels(path, len(normalization.mean))
        except DataError as error:
            return error
        letterbox = Letterbox.fit((record.height, record.width), self.input_size)
        return path, letterbox.image(pixels, normalization.fill), letterbox

    @torch.inference_mode()
    def _predict(self, read: Sequence[Any]) -> list[Prediction]:
        if not read:
            return []
        images = torch.from_numpy(np.stack([canvas for _, canvas, _ in read])).permute(0, 3, 1, 2)
        letterboxes: list[Letterbox] = [letterbox for _, _, letterbox in read]
        resized = torch.tensor([letterbox.resized for letterbox in letterboxes], dtype=torch.float32)
        found = self.postprocess(self.model(images.to(self.device)), resized.to(self.device))
        return [
            _prediction(path, letterbox, detections, self.model.classes)
            for (path, _, letterbox), detections in zip(read, found, strict=True)
        ]


def _failed(item: Any, failed: list[DataError]) -> bool:
    if isinstance(item, DataError):
        failed.append(item)
    return isinstance(item, DataError)


def _prediction(path: Path, letterbox: Letterbox, detections: Detections, classes: ClassTable) -> Prediction:
    scale, size = torch.tensor(letterbox.scale), torch.tensor(letterbox.source)
    in_file = to_file(detections._replace(boxes=detections.boxes.cpu()), scale, size)
    return Prediction(
        path,
        letterbox.source,
        in_file.boxes.numpy(),
        in_file.scores.cpu().numpy(),
        in_file.labels.cpu().numpy(),
        classes,
    )

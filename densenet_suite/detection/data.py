"""Labelled images to batches: reading, augmentation, letterbox, collation; and the data module that Lightning asks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from densenet_suite.archives import shard_groups
from densenet_suite.augment import AugmentPolicy, JointAugment
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.csv_table import read_csv
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, hold_out
from densenet_suite.detection.layout import CocoFile, CsvFile, Format, SplitFiles, VocFolder, find_split
from densenet_suite.detection.shards import read_shards
from densenet_suite.detection.structures import IGNORE, ClassTable, DetectionBatch
from densenet_suite.detection.voc_xml import read_voc
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.findings import Findings
from densenet_suite.geometry import Letterbox
from densenet_suite.images import read_pixels
from densenet_suite.labelled_data import LabelledData
from densenet_suite.sampling import SampleKey, SequentialShard, Stream, derive_seed, epoch_order
from densenet_suite.shards import ShardSplit

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """One image, ready to be put into a batch; see DetectionBatch."""

    image: Shaped[Tensor, "c h w"]
    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    index: int
    size: tuple[int, int]
    scale: tuple[float, float]


class DetectionSamples(Dataset[Sample]):
    """The images of a split, as the network sees them.

    Args:
        source: the split.
        canvas: (height, width) of the network's input.
        bands: 3, or 1 for grey.
        fill: pixel of the padding.
        policy: random changes; None for evaluation.
        seed: of the random changes.
    """

    def __init__(
        self,
        source: DetectionSet,
        canvas: tuple[int, int],
        bands: int,
        fill: Sequence[int],
        policy: AugmentPolicy | None,
        seed: int,
    ):
        self.source = source
        self.canvas = canvas
        self.bands = bands
        self.fill = tuple(fill)
        self.augment = JointAugment(policy, canvas, fill) if policy else None
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> Sample:
        entry = self.source.images[key.index]
        pixels, record = read_pixels(entry.path, self.bands)
        if (record.height, record.width) != (entry.height, entry.width):
            raise DataError("the picture has another size than when training began", where=str(entry.path))
        boxes, labels = _trained(entry)
        size = (entry.height, entry.width)
        letterbox = Letterbox.fit(size, self.canvas)
        if self.augment is None:
            pixels, boxes = letterbox.image(pixels, self.fill), letterbox.boxes(boxes)
        else:
            seed = derive_seed(self.seed, Stream.SAMPLE, key.epoch, key.index)
            pixels, boxes, kept = self.augment(pixels, boxes, seed)
            labels = labels[kept]
        return Sample(
            image=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            labels=torch.from_numpy(labels),
            index=key.index,
            size=size,
            scale=letterbox.scale,
        )


def _trained(entry: LabelledImage) -> tuple[Array, Array]:
    """Return the boxes that are trained on, clipped to the picture, with their labels: all but crowd regions."""
    objects = entry.objects
    boxes = objects.clipped(entry.height, entry.width)
    keep = ~objects.crowd & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[keep], objects.labels[keep]


def collate(samples: Sequence[Sample]) -> DetectionBatch:
    """Put samples into a batch, padded to the largest number of objects, which has no limit."""
    most = max(len(sample.labels) for sample in samples)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), IGNORE)
    for i, sample in enumerate(samples):
        boxes[i, : len(sample.boxes)] = sample.boxes
        labels[i, : len(sample.labels)] = sample.labels
    return DetectionBatch(
        images=torch.stack([sample.image for sample in samples]),
        boxes=boxes,
        labels=labels,
        indices=torch.tensor([sample.index for sample in samples]),
        sizes=torch.tensor([sample.size for sample in samples]),
        scales=torch.tensor([sample.scale for sample in samples]),
    )


class DetectionData(LabelledData[DetectionSet]):
    """Train, val and test splits of a dataset in COCO, Pascal VOC, YOLO or CSV format, or in sharded tars.

    Args:
        root: folder of the dataset.
        size: (height, width) of the network's input.
        batch: images per process and step.
        named: where splits are that are not to be looked for below root.
        format: format of those that are looked for; None to recognise it, see `layout.find_split`.
        holdout: share of the training images that is validated on where there is no val split.
        augment: random changes of training images.
        workers: processes that read images; None for none where the CPU trains, and up to 8 beside a GPU. Their number
            changes nothing but the speed.
        bands: 3, or 1 for grey.
        classes: of a trained model, with which the categories of the files are matched by name; None to take the
            training split's own.
        seed: of the order and of the random changes.

    Attributes:
        fill: pixel of the padding; set it to the model's `preprocess.normalization.fill`.
    """

    def __init__(  # noqa: PLR0913 each is a value of the config
        self,
        root: str | Path,
        size: tuple[int, int],
        batch: int,
        *,
        named: Mapping[str, SplitFiles] | None = None,
        format: Format | None = None,
        holdout: float = 0.2,
        augment: AugmentPolicy | None = None,
        workers: int | None = None,
        bands: int = 3,
        classes: ClassTable | None = None,
        seed: int = 0,
    ):
        super().__init__(root, batch, holdout, workers)
        self.size = size
        self.format = format
        self.augment = augment or AugmentPolicy()
        self.bands = bands
        self.given_classes = classes
        self.seed = seed
        self.fill: tuple[int, ...] = (124, 116, 104)[:bands]
        self._found: dict[str, SplitFiles | None] = dict(named or {})

    @property
    def classes(self) -> ClassTable:
        """The classes: those given, or the training split's."""
        return self.given_classes or self.split("train").classes

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return augmented batches in an order of their own in each epoch; the rest that fills no batch is left out."""
        source = self.split("train")
        rank, processes = self.place
        if len(source) < self.batch * processes:
            raise ConfigError(
                f"train.batch {self.batch} on {processes} processes is more than the {len(source)} training images",
                hint=f"train.batch={max(1, len(source) // processes)}",
            )
        sampler = epoch_order(shard_groups(source.paths), len(source), self.seed, rank, processes)
        return self._loader(source, sampler, self.augment, drop_last=True)

    def eval_dataloader(self, split: str) -> DataLoader[Sample]:
        """Return the images of any split, each once and unchanged."""
        source = self.split(split)
        return self._loader(source, SequentialShard(len(source), *self.place), None, drop_last=False)

    def has_files(self, name: str) -> bool:
        """Say whether there are files of a split."""
        return self._files(name) is not None

    def read_split(self, name: str, findings: Findings | None = None) -> DetectionSet:
        """Read and check a split that has files, with the training split's classes; see the base class.

        Raises:
            DataError: they are faulty.
        """
        files = self._files(name)
        assert files is not None
        classes = self.given_classes
        if classes is None and name != "train" and (findings is None or "train" in self._read):
            train = self._get("train")
            classes = train.classes if train else None
        logger.info("the %s split is read as %s", name, files)
        if isinstance(files, CocoFile):
            return read_coco(name, files.annotations, files.images, classes, findings)
        if isinstance(files, VocFolder):
            return read_voc(name, files.annotations, files.images, classes, files.names, findings)
        if isinstance(files, CsvFile):
            return read_csv(name, files.table, files.images, classes, findings)
        if isinstance(files, ShardSplit):
            return read_shards(name, files, classes, findings)
        return read_yolo(name, files.data, classes, files.key, findings)

    def divide(self, train: DetectionSet) -> tuple[DetectionSet, DetectionSet]:
        """Divide a training split into one to train on and one to validate on; see `hold_out`."""
        return hold_out(train, self.holdout)

    def expected(self, name: str) -> str:
        """Return where the files of a split are looked for, as a hint."""
        return (
            f"expected annotations/instances_{name}.json or {name}/_annotations.coco.json (COCO), a data.yaml with "
            f"names and {name} (YOLO), Annotations/*.xml and ImageSets/Main/{name}.txt (Pascal VOC), {name}.csv or "
            f"shards/{name}-000000.tar; or name it: data.{name}.annotations=..."
        )

    def recognised(self, name: str) -> str:
        """Say what the files of a split were taken for, and why; or that they were not understood."""
        try:
            return str(self._files(name))
        except DataError:
            return "not understood"

    def _files(self, name: str) -> SplitFiles | None:
        if name not in self._found:
            self._found[name] = find_split(self.root, name, self.format)
        return self._found[name]

    def _loader(
        self, source: DetectionSet, sampler: Any, policy: AugmentPolicy | None, *, drop_last: bool
    ) -> DataLoader[Sample]:
        samples = DetectionSamples(source, self.size, self.bands, self.fill, policy, self.seed)
        return DataLoader(
            samples,
            batch_size=self.batch,
            sampler=sampler,
            collate_fn=collate,
            drop_last=drop_last,
            **self.loading(),
        )

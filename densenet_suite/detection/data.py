"""The data module that Lightning asks for batches of images with boxes."""

import logging
from collections.abc import Mapping
from pathlib import Path

from densenet_suite.archives.members import shard_groups
from densenet_suite.archives.shards import ShardSplit
from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.augment.capabilities import fit_to_data
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.csv_table import read_csv
from densenet_suite.detection.datasets import DetectionSet, hold_out
from densenet_suite.detection.geojson_boxes import read_geojson_boxes
from densenet_suite.detection.layout import CocoFile, CsvFile, Format, SplitFiles, VocFolder, YoloFile, find_split
from densenet_suite.detection.samples import DetectionSamples, collate, noise
from densenet_suite.detection.shards import read_shards
from densenet_suite.detection.structures import ClassTable, DetectionBatch
from densenet_suite.detection.voc_xml import read_voc
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson_rasters import GeoJsonFiles
from densenet_suite.labelled_data import LabelledData, Reading
from densenet_suite.loading import Loader
from densenet_suite.sampling import SequentialShard, epoch_order

logger = logging.getLogger(__name__)


class DetectionData(LabelledData[DetectionSet]):
    """Train, val and test splits of a dataset in COCO, Pascal VOC, YOLO, CSV or GeoJSON format, or in sharded tars.

    Args:
        root: folder of the dataset.
        size: (height, width) of the network's input.
        batch: images per process and step.
        named: where splits are that are not to be looked for below root.
        format: format of those that are looked for; None to recognise it, see `layout.find_split`.
        holdout: share of the training images that is validated on where there is no val split.
        augment: random changes of training images; None for those of the preset `standard`.
        epochs: of the run, of which the last ones may be plain; None for no end.
        workers: processes that read images; None for none where the CPU trains, and up to 8 beside a GPU. Their number
            changes nothing but the speed.
        reading: how files are read.
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
        epochs: int | None = None,
        workers: int | None = None,
        reading: Reading | None = None,
        bands: int = 3,
        classes: ClassTable | None = None,
        seed: int = 0,
    ):
        super().__init__(root, batch, holdout, workers, reading)
        self.size = size
        self.format = format
        self.augment = augment or preset_policy("standard", "detection")
        self.epochs = epochs
        self.bands = bands
        self.given_classes = classes
        self.seed = seed
        self.fill: tuple[int, ...] = (124, 116, 104)[:bands]
        self._found: dict[str, SplitFiles | None] = dict(named or {})

    @property
    def classes(self) -> ClassTable:
        """The classes: those given, or the training split's."""
        return self.given_classes or self.split("train").classes

    def fit_augment(self) -> None:
        """Leave out of the random changes what a preset wants and these images do not allow, and say so once.

        Raises:
            ConfigError: they do not allow what differs from the preset.
        """
        self.augment, left_out = fit_to_data(self.augment, "detection", "uint8", self.bands)
        if left_out:
            logger.info("%s", left_out)

    def train_dataloader(self) -> Loader[DetectionBatch]:
        """Return augmented batches in an order of their own in each epoch; the rest that fills no batch is left out."""
        source = self.split("train")
        self.fit_augment()
        rank, processes = self.place
        if len(source) < self.batch * processes:
            raise ConfigError(
                f"train.batch {self.batch} on {processes} processes is more than the {len(source)} training images",
                hint=f"train.batch={max(1, len(source) // processes)}",
            )
        sampler = epoch_order(shard_groups(source.paths), len(source), self.seed, rank, processes)
        samples = DetectionSamples(
            source,
            self.size,
            self.bands,
            self.fill,
            self.augment,
            self.seed,
            self.epochs,
            cache=self.make_cache(len(source)),
            damaged=self.damage("train"),
        )
        return Loader(samples, collate, self.workers, sampler=sampler, batch=self.batch, drop_last=True)

    @property
    def epoch_length(self) -> int:
        """Samples to train on in an epoch: each picture once."""
        return len(self.split("train"))

    def largest_batch(self, images: int) -> DetectionBatch:
        """Return noise in the form of a batch to train on, with as many objects to an image as there can be."""
        self.fit_augment()
        fullest = max(len(image.objects) for image in self.split("train").images)
        return noise(images, self.bands, self.size, fullest * self.augment.most_pictures, len(self.classes))

    def eval_dataloader(self, split: str) -> Loader[DetectionBatch]:
        """Return the images of any split, each once and unchanged."""
        source = self.split(split)
        samples = DetectionSamples(
            source, self.size, self.bands, self.fill, None, self.seed, damaged=self.damage(split)
        )
        sampler = SequentialShard(len(source), *self.place)
        return Loader(samples, collate, self.workers, sampler=sampler, batch=self.batch)

    def has_files(self, name: str) -> bool:
        """Say whether there are files of a split."""
        return self.files(name) is not None

    def read_split(self, name: str, findings: Findings | None = None) -> DetectionSet:
        """Read and check a split that has files, with the training split's classes; see the base class.

        Raises:
            DataError: they are faulty.
        """
        files = self.files(name)
        assert files is not None
        classes = self.given_classes
        if classes is None and name != "train" and (findings is None or "train" in self._read):
            train = self._get("train")
            classes = train.classes if train else None
        findings = findings or Findings(str(_place(files)), skip_damaged=self.reading.skip_damaged)
        if isinstance(files, CocoFile):
            return read_coco(name, files.annotations, files.images, classes, findings)
        if isinstance(files, VocFolder):
            return read_voc(name, files.annotations, files.images, classes, files.names, findings)
        if isinstance(files, CsvFile):
            return read_csv(name, files.table, files.images, classes, findings)
        if isinstance(files, ShardSplit):
            return read_shards(name, files, classes, findings)
        if isinstance(files, GeoJsonFiles):
            return read_geojson_boxes(name, files, classes, findings)
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
            return str(self.files(name))
        except DataError:
            return "not understood"

    def files(self, name: str) -> SplitFiles | None:
        """Return where a split is, or None where there is none; see `layout.find_split`."""
        if name not in self._found:
            self._found[name] = find_split(self.root, name, self.format)
        return self._found[name]


def _place(files: SplitFiles) -> Path:
    """Return the file or folder that says what the pictures of a split show."""
    match files:
        case CocoFile(annotations=place) | VocFolder(annotations=place) | CsvFile(table=place):
            return place
        case GeoJsonFiles(labels=place) | ShardSplit(folder=place) | YoloFile(data=place):
            return place

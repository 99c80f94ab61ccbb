"""The data module that Lightning asks for batches of images with masks."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.archives.members import shard_groups
from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.augment.capabilities import fit_to_data
from densenet_suite.augment.masks import MaskAugment
from densenet_suite.division.split_files import SPLITS
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson_rasters import GeoJsonFiles
from densenet_suite.labelled_data import LabelledData, Reading
from densenet_suite.loading import Loader
from densenet_suite.preprocess import Normalization
from densenet_suite.sampling import SequentialShard, epoch_order
from densenet_suite.segmentation.class_file import read_class_file
from densenet_suite.segmentation.class_table import RawValue, RawValues
from densenet_suite.segmentation.crops import choose_crop
from densenet_suite.segmentation.datasets import SegmentationSet, hold_out
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import CocoFile, SplitFiles, find_split, name_split
from densenet_suite.segmentation.masks import MaskCodec
from densenet_suite.segmentation.pairing import PairedFiles
from densenet_suite.segmentation.reading import read_segmentation, source_of
from densenet_suite.segmentation.samples import SameSizeBatches, SegmentationSamples, collate, missing_pixel, noise
from densenet_suite.segmentation.statistics import normalization_for
from densenet_suite.segmentation.structures import MaskClasses, SegmentationBatch

logger = logging.getLogger(__name__)


class SegmentationData(LabelledData[SegmentationSet]):
    """Train, val and test splits of images with masks.

    Args:
        root: folder of the dataset.
        crop: (height, width) of the network's input in training.
        batch: crops per process and step; in evaluation the most images of one size.
        named: (images, masks) of the splits that are not to be looked for below root, relative to it; see `name_split`.
        mask_name: how a mask is called that belongs to an image; see `find_split`.
        classes: each class with its value or values in the masks; None to take what the training masks show.
        ignore: further values of the masks that are neither learned nor scored.
        multilabel: whether classes may overlap.
        nearest: whether a value that no class has is taken for the nearest one.
        holdout: share of the training images that is validated on where there is no val split.
        augment: random changes of training images; None for those of the preset `standard`.
        epochs: of the run, of which the last ones may be plain; None for no end.
        balance: share of the crops that are centred on a pixel of a class, each class as likely.
        crops_per_image: in an epoch.
        scale: pixels of the network per pixel of the file.
        workers: processes that read images; None for none where the CPU trains, and up to 8 beside a GPU. Their number
            changes nothing but the speed.
        reading: how files are read.
        bands: of the images; None for those of the training images.
        given: the classes of a trained model, with which those of the masks are matched by name.
        seed: of the order and of what is random.

    Attributes:
        normalization: of the network; set it to the model's `preprocess.normalization`.
    """

    def __init__(  # noqa: PLR0913 each is a value of the config
        self,
        root: str | Path,
        crop: tuple[int, int],
        batch: int,
        *,
        named: Mapping[str, tuple[str, str]] | None = None,
        mask_name: str = "{stem}",
        classes: Mapping[str, RawValues] | None = None,
        ignore: Sequence[RawValue] = (),
        multilabel: bool = False,
        nearest: bool = False,
        holdout: float = 0.2,
        augment: AugmentPolicy | None = None,
        epochs: int | None = None,
        balance: float = 0.5,
        crops_per_image: int = 1,
        scale: float = 1.0,
        workers: int | None = None,
        reading: Reading | None = None,
        bands: int | None = None,
        given: MaskClasses | None = None,
        seed: int = 0,
    ):
        super().__init__(root, batch, holdout, workers, reading)
        self.crop = crop
        self.named = dict(named or {})
        self.mask_name = mask_name
        self.table, self.ignore, self.nearest = classes, tuple(ignore), nearest
        self.multilabel = multilabel
        self.augment = augment or preset_policy("standard", "segmentation")
        self.epochs = epochs
        self.balance, self.crops_per_image = balance, crops_per_image
        self.scale = scale
        self.given_bands, self.given_classes = bands, given
        self.seed = seed
        self.normalization: Normalization | None = None
        self._found: dict[str, SplitFiles | None] = {}

    @property
    def classes(self) -> MaskClasses:
        """What the masks tell apart: the given classes, or the training split's."""
        return self.given_classes or self.codec.classes

    @cached_property
    def codec(self) -> MaskCodec:
        """What the values of the masks mean, in all splits alike.

        Raises:
            ConfigError: the class table contradicts itself, or the model.
            DataError: there are no masks, or they do not show what is meant.
        """
        files = next((files for name in SPLITS if (files := self.files(name)) is not None), None)
        if files is None:
            self.split("train")  # says what is missing
        assert files is not None
        table, ignore = self.table, self.ignore
        known = read_class_file(self.root, multilabel=self.multilabel) if table is None else None
        if known is not None and not isinstance(files, CocoFile):
            table, ignore = known.classes, (*ignore, *known.ignore)
        return find_codec(
            files,
            classes=table,
            ignore=ignore,
            nearest=self.nearest,
            multilabel=self.multilabel,
            given=self.given_classes,
        )

    @cached_property
    def bands(self) -> int:
        """Bands of the images: as given, or the most that a training image has."""
        return self.given_bands or max(scene.bands for scene in self.split("train").scenes)

    @cached_property
    def own_normalization(self) -> Normalization | None:
        """The statistics of the training images, or None for 8-bit colours, which keep those of the weights."""
        return normalization_for(self.split("train"), self.bands)

    def fit_augment(self) -> None:
        """Leave out of the random changes what a preset wants and these images do not allow, and say so once.

        Raises:
            ConfigError: they do not allow what differs from the preset.
        """
        dtype = "uint8" if self.split("train").scenes[0].dtype == "uint8" else "float32"
        self.augment, left_out = fit_to_data(self.augment, "segmentation", dtype, self.bands)
        if left_out:
            logger.info("%s", left_out)

    def train_dataloader(self) -> Loader[SegmentationBatch]:
        """Return augmented crops in an order of their own in each epoch; the rest that fills no batch is left out."""
        source = self.split("train")
        self.fit_augment()
        normalization = self._normalization(source)
        spread = tuple(std * normalization.value_range for std in normalization.std)
        fill = missing_pixel(normalization, np.dtype(source.scenes[0].dtype))
        choose = partial(choose_crop, share_by_class=self.balance)
        augment = MaskAugment(self.augment, self.crop, fill, spread, choose, self.scale)
        samples = SegmentationSamples(
            source,
            self.bands,
            normalization,
            self.scale,
            augment,
            self.crops_per_image,
            self.seed,
            self.epochs,
            cache=self.make_cache(2 * len(source)),
            damaged=self.damage("train"),
        )
        rank, processes = self.place
        if len(samples) < self.batch * processes:
            raise ConfigError(
                f"train.batch {self.batch} on {processes} processes is more than the {len(samples)} training crops",
                hint=f"train.batch={max(1, len(samples) // processes)}, or data.crops_per_image="
                f"{-(-self.batch * processes // len(source))}",
            )
        shards = shard_groups([source.paths[i // self.crops_per_image] for i in range(len(samples))])
        sampler = epoch_order(shards, len(samples), self.seed, rank, processes)
        return Loader(samples, collate, self.workers, sampler=sampler, batch=self.batch, drop_last=True)

    @property
    def epoch_length(self) -> int:
        """Samples to train on in an epoch: some crops of each picture."""
        return len(self.split("train")) * self.crops_per_image

    def largest_batch(self, images: int) -> SegmentationBatch:
        """Return noise in the form of a batch to train on; all that there are take alike."""
        source = self.split("train")
        dtype = np.uint8 if source.scenes[0].dtype == "uint8" else np.float32
        return noise(images, self.bands, self.crop, self.classes, self._normalization(source).value_range, dtype)

    def eval_dataloader(self, split: str) -> Loader[SegmentationBatch]:
        """Return the images of any split, each once, whole and unchanged."""
        source = self.split(split)
        normalization = self._normalization(source)
        samples = SegmentationSamples(source, self.bands, normalization, self.scale, damaged=self.damage(split))
        batches = SameSizeBatches(source, SequentialShard(len(source), *self.place), self.batch)
        return Loader(samples, collate, self.workers, batches=batches)

    def has_files(self, name: str) -> bool:
        """Say whether there are files of a split."""
        return self.files(name) is not None

    def read_split(self, name: str, findings: Findings | None = None) -> SegmentationSet:
        """Read and check a split that has files; see the base class.

        Raises:
            DataError: they are faulty.
        """
        files = self.files(name)
        assert files is not None
        findings = findings or Findings(str(source_of(files)), skip_damaged=self.reading.skip_damaged)
        return read_segmentation(name, files, self.codec, findings)

    def divide(self, train: SegmentationSet) -> tuple[SegmentationSet, SegmentationSet]:
        """Divide a training split into one to train on and one to validate on; see `hold_out`."""
        return hold_out(train, self.holdout)

    def expected(self, name: str) -> str:
        """Return where the files of a split are looked for, as a hint."""
        return (
            f"expected images/{name} and masks/{name}, {name}.csv or annotations/instances_{name}.json; "
            f"or name it: data.{name}.images=... and data.{name}.masks=..."
        )

    def recognised(self, name: str) -> str:
        """Say what the files of a split were taken for, and why; or that they were not understood."""
        try:
            files = self.files(name)
        except DataError:
            return "not understood"
        if isinstance(files, CocoFile):
            return f"masks from polygons, as there is {files.annotations}"
        if isinstance(files, GeoJsonFiles):
            return str(files)
        assert isinstance(files, PairedFiles)
        layers = f", a folder for each of {', '.join(files.layers)}" if files.layers else ""
        return f"{len(files.pairs)} pairs of images and masks of the same names, as there is {files.where}{layers}"

    def files(self, name: str) -> SplitFiles | None:
        """Return where a split is, or None where there is none; see `layout.find_split`."""
        if name not in self._found:
            options: Any = {"mask_name": self.mask_name, "multilabel": self.multilabel}
            if name in self.named:
                self._found[name] = name_split(self.root, name, *self.named[name], **options)
            else:
                self._found[name] = find_split(self.root, name, **options)
        return self._found[name]

    def _normalization(self, source: SegmentationSet) -> Normalization:
        """Return the statistics of the network, or those that one for these images will have.

        Raises:
            DataError: they are of pixels of another depth.
        """
        chosen = self.normalization or self.own_normalization or Normalization.imagenet().for_bands(self.bands)
        scene = source.scenes[0]  # all have the same depth
        if (scene.dtype == "uint8") != (chosen.value_range == 255):
            depth = "8 bits" if chosen.value_range == 255 else "more than 8 bits"
            raise DataError(
                f"pixels are {scene.dtype}, the network was made for {depth}",
                where=str(scene.path),
                hint="convert the images to the depth of those it was trained on",
            )
        return chosen

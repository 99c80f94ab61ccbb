"""The data module that Lightning asks for batches of images with masks."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from densenet_suite.archives import shard_groups
from densenet_suite.augment import MaskAugment, MaskPolicy
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.findings import Findings
from densenet_suite.labelled_data import SPLITS, LabelledData
from densenet_suite.preprocess import Normalization
from densenet_suite.sampling import EpochOrder, SequentialShard, epoch_order
from densenet_suite.segmentation.class_file import read_class_file
from densenet_suite.segmentation.class_table import RawValue, RawValues
from densenet_suite.segmentation.crops import choose_crop
from densenet_suite.segmentation.datasets import SegmentationSet, hold_out, read_segmentation
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import CocoFile, SplitFiles, find_split, name_split
from densenet_suite.segmentation.masks import MaskCodec
from densenet_suite.segmentation.samples import SameSizeBatches, Sample, SegmentationSamples, collate, missing_pixel
from densenet_suite.segmentation.statistics import normalization_for
from densenet_suite.segmentation.structures import MaskClasses


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
        augment: random changes of training images.
        balance: share of the crops that are centred on a pixel of a class, each class as likely.
        crops_per_image: in an epoch.
        scale: pixels of the network per pixel of the file.
        workers: processes that read images; None for none where the CPU trains, and up to 8 beside a GPU. Their number
            changes nothing but the speed.
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
        augment: MaskPolicy | None = None,
        balance: float = 0.5,
        crops_per_image: int = 1,
        scale: float = 1.0,
        workers: int | None = None,
        bands: int | None = None,
        given: MaskClasses | None = None,
        seed: int = 0,
    ):
        super().__init__(root, batch, holdout, workers)
        self.crop = crop
        self.named = dict(named or {})
        self.mask_name = mask_name
        self.table, self.ignore, self.nearest = classes, tuple(ignore), nearest
        self.multilabel = multilabel
        self.augment = augment or MaskPolicy()
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
        files = next((files for name in SPLITS if (files := self._files(name)) is not None), None)
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

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return augmented crops in an order of their own in each epoch; the rest that fills no batch is left out."""
        source = self.split("train")
        normalization = self._normalization(source)
        spread = tuple(std * normalization.value_range for std in normalization.std)
        fill = missing_pixel(normalization, np.dtype(source.scenes[0].dtype))
        choose = partial(choose_crop, share_by_class=self.balance)
        augment = MaskAugment(self.augment, self.crop, fill, spread, choose, self.scale)
        samples = SegmentationSamples(
            source, self.bands, normalization, self.scale, augment, self.crops_per_image, self.seed
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
        return self._loader(samples, sampler, None)

    def eval_dataloader(self, split: str) -> DataLoader[Sample]:
        """Return the images of any split, each once, whole and unchanged."""
        source = self.split(split)
        samples = SegmentationSamples(source, self.bands, self._normalization(source), self.scale)
        batches = SameSizeBatches(source, SequentialShard(len(source), *self.place), self.batch)
        return self._loader(samples, None, batches)

    def has_files(self, name: str) -> bool:
        """Say whether there are files of a split."""
        return self._files(name) is not None

    def read_split(self, name: str, findings: Findings | None = None) -> SegmentationSet:
        """Read and check a split that has files; see the base class.

        Raises:
            DataError: they are faulty.
        """
        files = self._files(name)
        assert files is not None
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
            files = self._files(name)
        except DataError:
            return "not understood"
        if isinstance(files, CocoFile):
            return f"masks from polygons, as there is {files.annotations}"
        assert files is not None
        layers = f", a folder for each of {', '.join(files.layers)}" if files.layers else ""
        return f"{len(files.pairs)} pairs of images and masks of the same names, as there is {files.where}{layers}"

    def _files(self, name: str) -> SplitFiles | None:
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

    def _loader(
        self, samples: SegmentationSamples, sampler: EpochOrder | None, batches: Sampler[Any] | None
    ) -> DataLoader[Sample]:
        """Load what `sampler` says in batches of full size, or `batches` as they are."""
        return DataLoader(
            samples,
            batch_size=1 if sampler is None else self.batch,  # 1 is what torch wants to see beside `batches`
            sampler=sampler,
            batch_sampler=batches,
            collate_fn=collate,
            drop_last=sampler is not None,
            **self.loading(),
        )

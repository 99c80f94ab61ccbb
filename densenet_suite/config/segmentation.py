"""What a run of segmentation can be told, beside what every run can."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from densenet_suite.augment.policy import Task
from densenet_suite.config.augment import AugmentConfig
from densenet_suite.config.schema import (
    Config,
    Count,
    DataConfig,
    ModelConfig,
    NotNegative,
    OptimizerConfig,
    Positive,
    Section,
    Share,
    TrainConfig,
    checked,
    one_side_or_two,
)
from densenet_suite.segmentation.loss_terms import LOSS_NAMES
from densenet_suite.segmentation.variants import decoder_spec

Raw = int | str | tuple[int | str, ...]
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class SegmenterConfig(ModelConfig):
    """The network."""

    decoder: str = "unet"  # densenet-suite models list
    backbone: str = "efficientnet_b0"
    in_channels: Count | None = None  # bands of the images; null for those of the first training image
    bands: tuple[str, ...] | None = None  # what each band is taken for where RGB weights meet others: red, ..., new
    attention: Literal["scse"] | None = None  # of the U-Net's blocks
    norm: Literal["batch", "group"] = "batch"  # of the decoder; group for batches of one or two
    deep_supervision: bool = False  # the U-Net's coarser levels learn from a loss of their own

    @field_validator("decoder")
    @classmethod
    def _known_decoder(cls, value: str) -> str:
        return checked(value, decoder_spec)

    @property
    def network(self) -> str:
        """The decoder."""
        return self.decoder


class MaskSplitConfig(Section):
    """Where one split is; paths are relative to data.root."""

    images: str
    masks: str


class SegmentationDataConfig(DataConfig):
    """The dataset."""

    train: MaskSplitConfig | None = None
    val: MaskSplitConfig | None = None
    test: MaskSplitConfig | None = None
    mask_name: str = "{stem}"  # of the mask that belongs to an image, without its ending: "{stem}_mask"
    # each class with its value in the masks: a number, a colour "#RRGGBB", or a list of them; null: from the masks
    classes: dict[str, Raw] | None = None
    ignore: tuple[int | str, ...] = ()  # further values that are neither learned nor scored; 255 is one if no class
    multilabel: bool = False  # classes may overlap: a mask of several bands, or a folder for each class
    nearest_colour: bool = False  # take a colour that no class has for the nearest one that a class has
    crop: int | tuple[int, int] = 256  # of the training images, in pixels as the network sees them
    crops_per_image: Count = 1  # in an epoch
    balance: Share = 0.5  # share of the crops that are centred on a class chosen evenly, however rare
    scale: Positive = 1.0  # pixels of the network per pixel of the file

    @field_validator("crop", mode="before")
    @classmethod
    def _one_side_or_two(cls, value: Any) -> Any:
        return one_side_or_two(value, 32)

    @field_validator("classes", "ignore")
    @classmethod
    def _values_or_colours(cls, value: Any) -> Any:
        entries = value.values() if isinstance(value, dict) else value or ()
        for entry in entries:
            for raw in entry if isinstance(entry, tuple) else (entry,):
                if isinstance(raw, str) and not _COLOUR.fullmatch(raw):
                    raise ValueError(f"{raw!r} is neither a number nor a colour; write '#RRGGBB', in quotes")
        return value

    @field_validator("mask_name")
    @classmethod
    def _has_a_stem(cls, value: str) -> str:
        if "{stem}" not in value:
            raise ValueError(f"{value!r} does not say where the image's name stands; such as {{stem}}_mask")
        return value


class SegmentationAugmentConfig(AugmentConfig):
    """How much training images change; see AugmentPolicy."""

    task: ClassVar[Task] = "segmentation"

    scale: tuple[Positive, Positive] = (0.7, 1.4)  # relative to the file's size


class LossTermConfig(Section):
    """One part of the loss; see LossTerm."""

    name: str
    weight: Positive = 1.0
    gamma: NotNegative = 2.0  # of focal
    alpha: Share = 0.3  # of tversky: what a false alarm costs
    beta: Share = 0.7  # of tversky: what a miss costs

    @field_validator("name")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        if value not in LOSS_NAMES:
            known = f"known are {', '.join(LOSS_NAMES)}; cross_entropy of overlapping classes is BCE"
            raise ValueError(f"there is no loss {value!r}; {known}")
        return value


class LossConfig(Section):
    """What is minimised: a weighted sum."""

    terms: Annotated[tuple[LossTermConfig, ...], Field(min_length=1)] = (
        LossTermConfig(name="cross_entropy"),
        LossTermConfig(name="dice"),
    )
    # balanced: the rarer, the more; or a number for each class; null: all alike
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None


class TileConfig(Section):
    """How scenes that are too large for one piece are cut in evaluation; predict has arguments of the same names."""

    size: Annotated[int, Field(ge=32)] = 1024  # side, in pixels as the network sees them
    overlap: Annotated[int, Field(ge=0)] = 256

    @model_validator(mode="after")
    def _tiles_advance(self) -> "TileConfig":
        if 2 * self.overlap > self.size:
            raise ValueError(f"overlap {self.overlap} is more than half of size {self.size}; tiles hardly advance")
        return self


class SegmentationOptimizerConfig(OptimizerConfig):
    """The optimizer. Norms and biases are not decayed."""

    name: Literal["sgd", "adamw"] = "adamw"
    lr: Positive = 4e-3
    weight_decay: NotNegative = 1e-2


class SegmentationTrainConfig(TrainConfig):
    """The training."""

    optimizer: SegmentationOptimizerConfig = SegmentationOptimizerConfig()


class SegmentationConfig(Config):
    """A run of segmentation."""

    task: Literal["segmentation"]
    model: SegmenterConfig = SegmenterConfig()
    data: SegmentationDataConfig
    train: SegmentationTrainConfig = SegmentationTrainConfig()
    augment: SegmentationAugmentConfig = SegmentationAugmentConfig()
    loss: LossConfig = LossConfig()
    tiles: TileConfig = TileConfig()

    @model_validator(mode="after")
    def _epochs_for_everything(self) -> "SegmentationConfig":
        self.augment.check_epochs(self.train.epochs)
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of a training crop."""
        crop = self.data.crop
        return (crop, crop) if isinstance(crop, int) else crop

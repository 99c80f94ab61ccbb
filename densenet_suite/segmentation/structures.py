"""What passes between the parts of segmentation.

Masks are uint8 with classes 0..k-1, and 255 everywhere means: not labelled, not learned, not scored. Where classes
exclude each other a mask is [h w]; where they may overlap (multilabel) it is [k h w] of 0, 1 and 255.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from densenet_suite.batch import TensorBatch

IGNORE = 255
MAX_CLASSES = 255


@dataclass(frozen=True)
class MaskClasses:
    """The classes of a dataset: class i is called `names[i]` and drawn in `colours[i]`.

    `multilabel` says that they may overlap: each is a yes or no of its own (a sigmoid), also a single one. Otherwise
    each pixel has exactly one (a softmax), and background, where there is one, is a class like any other.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    multilabel: bool = False

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours) or len(set(self.names)) != len(self.names):
            raise ValueError(f"names {self.names} and {len(self.colours)} colours: one colour for each different name")
        smallest = 1 if self.multilabel else 2
        if not smallest <= len(self.names) <= MAX_CLASSES:
            raise ValueError(f"{len(self.names)} classes, a mask holds {smallest} to {MAX_CLASSES}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` made, or its copy from JSON."""
        colours = tuple(tuple(colour) for colour in values["colours"])
        return cls(tuple(values["names"]), colours, values["multilabel"])


@dataclass(frozen=True)
class SegmentationBatch(TensorBatch):
    """Images of one size with their masks.

    `images` hold pixel values as the files have them: uint8, or float32 for any other depth. `masks` are [b h w], or
    [b k h w] for overlapping classes. `indices` number the images in their dataset.
    """

    images: Shaped[Tensor, "b c h w"]
    masks: UInt8[Tensor, "b *k h2 w2"]
    indices: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.images)


class Counts(NamedTuple):
    """Pixels of each class: found rightly, found wrongly, missed. Integers, so that no sum loses any."""

    hits: Int[Tensor, "*n k"]
    false_alarms: Int[Tensor, "*n k"]
    misses: Int[Tensor, "*n k"]

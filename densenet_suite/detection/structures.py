"""What passes between the parts of detection.

Boxes are xyxy in pixels, labels 0..k-1, and there is no background class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from densenet_suite.batch import TensorBatch
from densenet_suite.detection.boxes import decode_boxes

IGNORE = -1


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset: label i is called `names[i]`, and its category id in the files is `ids[i]`."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids) or len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{len(self.names)} names for the ids {self.ids}: one id of its own for each")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, names: Sequence[str]) -> Self:
        """Give names the ids 1..k."""
        return cls(tuple(names), tuple(range(1, len(names) + 1)))


@dataclass(frozen=True)
class DetectionBatch(TensorBatch):
    """Images of one size and what is on them.

    Rows beyond an image's objects have the label -1. `boxes` are in pixels of the network's input. `indices` number the
    images in their dataset, and `sizes` are the heights and widths of the files. In batches that are not augmented,
    dividing boxes by `scales` (y, x) gives pixels of the file.
    """

    images: Shaped[Tensor, "b c h w"]
    boxes: Float[Tensor, "b m 4"]
    labels: Int[Tensor, "b m"]
    indices: Int[Tensor, " b"]
    sizes: Int[Tensor, "b 2"]
    scales: Float[Tensor, "b 2"]

    def __len__(self) -> int:
        return len(self.images)


class RawDetections(NamedTuple):
    """What the network says: a logit for each anchor and class, and how each anchor is to be moved.

    `box_deltas` are (dy, dx, dh, dw): centre shifts in units of the anchor's size, and log factors of its size.
    """

    class_logits: Float[Tensor, "b n k"]
    box_deltas: Float[Tensor, "b n 4"]
    anchors: Float[Tensor, "n 4"]

    def boxes(self) -> Float[Tensor, "b n 4"]:
        """Return the decoded boxes, xyxy in pixels of the network's input."""
        return decode_boxes(self.box_deltas, self.anchors)


class Detections(NamedTuple):
    """Objects found in one image, best first; boxes xyxy.

    The three are of one length, which stays unnamed: what is chosen from detections is again detections, and shorter.
    """

    boxes: Float[Tensor, "_ 4"]
    scores: Float[Tensor, " _"]
    labels: Int[Tensor, " _"]

"""What is exported: a network with all that stands between pixel values and answers: a runtime needs no more."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from densenet_suite.detection.anchors import OCTAVES, anchor_boxes
from densenet_suite.detection.boxes import clip_boxes, decode_boxes
from densenet_suite.detection.model import EfficientDet
from densenet_suite.segmentation.model import Segmenter


class ExportedDetector(nn.Module):
    """A detector that gives boxes and scores.

    Args:
        model: the detector; `fuse` makes it faster.
        size: (height, width) of the images, whose anchors are kept; None where those follow from each image.

    Attributes:
        outputs: what is returned, by name, with its axes.
    """

    outputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "boxes": ("batch", "anchors", "xyxy"),
        "scores": ("batch", "anchors", "classes"),
    }

    def __init__(self, model: EfficientDet, size: tuple[int, int] | None):
        super().__init__()
        self.model = model
        spec = model.spec
        anchors = None if size is None else anchor_boxes(size, self._cells(*size), spec.anchor_scale, spec.aspects)
        self.anchors: Tensor | None
        self.register_buffer("anchors", anchors, persistent=False)
        sides = [spec.anchor_scale * 2 ** (octave / OCTAVES) / 2 for octave in range(OCTAVES)]
        halves = [(side * width, side * height) for side in sides for width, height in spec.aspects]
        self.halves: Tensor  # of the anchors' widths and heights, in strides
        self.register_buffer("halves", torch.tensor(halves, dtype=torch.float64), persistent=False)

    def forward(self, images: Shaped[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n k"]]:
        """Return the boxes of all anchors, xyxy in pixels of the image, and their scores for each class, 0 to 1."""
        boxes, logits = self.boxes_and_logits(images)
        return boxes, logits.sigmoid()

    def boxes_and_logits(
        self, images: Shaped[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n k"]]:
        """Return boxes, and what scores are made of."""
        model = self.model
        pyramid = model.pyramid(model.preprocess(images))
        anchors = self._anchors_of(images) if self.anchors is None else self.anchors
        return decode_boxes(model.box_head(pyramid), anchors), model.class_head(pyramid)

    def _cells(self, height: int, width: int) -> list[tuple[int, int]]:
        return [(-(-height // stride), -(-width // stride)) for stride in self.model.spec.strides]

    def _anchors_of(self, images: Tensor) -> Float[Tensor, "n 4"]:
        """Return what `anchor_boxes` does, in a tenth of its operations, each of which a runtime takes every time."""
        height, width = images.shape[-2:]
        levels = []
        for rows, columns in self._cells(height, width):
            stride = torch.stack([torch.scalar_tensor(width) / columns, torch.scalar_tensor(height) / rows]).double()
            x = torch.arange(columns).expand(rows, columns)
            y = torch.arange(rows)[:, None].expand(rows, columns)
            centres = ((torch.stack([x, y], -1) + 0.5) * stride)[:, :, None]  # [h w 1 2]
            halves = self.halves * stride
            levels.append(torch.cat([centres - halves, centres + halves], -1).reshape(-1, 4))
        return torch.cat(levels).float()


class ExportedCandidates(nn.Module):
    """A detector that gives what the final detections are chosen from.

    Args:
        detector: what is before the choice.

    Attributes:
        outputs: what is returned, by name, with its axes.
    """

    outputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "candidates": ("batch", "anchors", "xyxy"),
        "logits": ("batch", "anchors", "classes"),
    }

    def __init__(self, detector: ExportedDetector):
        super().__init__()
        self.detector = detector

    def forward(self, images: Shaped[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n k"]]:
        """Return the boxes of all anchors, cut off at the border of the image, and their logits."""
        boxes, logits = self.detector.boxes_and_logits(images)
        return clip_boxes(boxes, *images.shape[-2:]), logits


class ExportedSegmenter(nn.Module):
    """A segmenter that gives probabilities.

    Args:
        model: the segmenter; `fuse` makes it faster.

    Attributes:
        outputs: what is returned, by name, with its axes.
    """

    outputs: ClassVar[Mapping[str, tuple[str, ...]]] = {"probabilities": ("batch", "classes", "height", "width")}

    def __init__(self, model: Segmenter):
        super().__init__()
        self.model = model

    def forward(self, images: Shaped[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k h w"]]:
        """Return the probability of each class at each pixel; they add up to 1 unless classes may overlap.

        Softmax is written out: onnxruntime's own takes ten times as long over any but the last dimension.
        """
        logits = self.model(images)
        if self.model.classes.multilabel:
            return (logits.sigmoid(),)
        powers = (logits - logits.amax(1, keepdim=True)).exp()
        return (powers / powers.sum(1, keepdim=True),)

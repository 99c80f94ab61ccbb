"""How much training images change: one row of numbers for both tasks. This module needs no torch."""

from dataclasses import dataclass, replace
from typing import Literal, Self

Task = Literal["detection", "segmentation"]

# what makes pictures that no camera takes; the last epochs do without
STRONG = ("cutout", "randaugment", "mosaic", "mixup", "copy_paste")


@dataclass(frozen=True)
class AugmentPolicy:
    """How much training images change; by itself nothing does.

    Attributes:
        preset: the row that the numbers come from; a number that differs from it is the user's own, and is refused
            where the data cannot do it, instead of being left out.
        flip: probability of a horizontal mirror image.
        vertical_flip: probability of a vertical one, for pictures without an up, such as slides and aerial images.
        rotate90: probability of a turn by 0 to 3 quarters; with both flips at 0.5 all eight positions are alike (D4).
        rotate: largest turn in degrees, both ways. What turns into view is the picture around it. The box of what is
            turned is that around its turned box, and so larger: a square's by a fifth at 15 degrees.
        scale: smallest and largest size. Of detection relative to just fitting the canvas, all equally likely as in
            EfficientDet's code; 0.1 to 2 is the large-scale jitter of Ghiasi et al., arXiv:2012.07177, sec. 3. Of
            segmentation relative to the file's, halving as likely as doubling. What is larger is cropped, what is
            smaller is padded, at a random place.
        elastic: standard deviation, in pixels, of a smooth random displacement (Simard et al. 2003, sec. 2), as for
            tissue and cells (Ronneberger et al., arXiv:1505.04597, sec. 3.1: 10 pixels); of masks only.
        brightness, contrast: largest change of each, as a share; of anything but 8-bit grey or colour, brightness is
            shifted by this share of the bands' deviations.
        saturation: largest change, as a share, and
        hue: largest shift, as a share of the colour circle: of 8-bit colours only.
        gamma: largest change of the exponent, as a share: 0.25 is 0.8 to 1.25.
        blur: largest standard deviation, in pixels, and
        noise: largest one, as a share of the bands' deviations, and
        compression: largest loss of JPEG's quality, as a share; each of the three in half of the pictures.
        cutout: probability that a rectangle of 2 to 20 % is erased (Zhong et al., arXiv:1708.04896).
        randaugment: number of operations of RandAugment for each picture (Cubuk et al., arXiv:1909.13719).
        magnitude: how far they go, 0 to 10.
        mosaic: probability of a picture of four (Bochkovskiy et al., arXiv:2004.10934, sec. 3.3).
        mixup: probability of two pictures seen through each other, with the boxes of both (Zhang et al.,
            arXiv:1902.04103).
        copy_paste: probability that objects of another picture are pasted: along their polygons, or else their boxes
            (Ghiasi et al.); of masks half of the classes of another crop (ClassMix, Olsson et al., arXiv:2007.07936).
        plain_epochs: the last epochs, which do without cutout, RandAugment, mosaic, mixup and copy-paste (Ge et al.,
            YOLOX, arXiv:2107.08430, sec. 2.1: 15).
        min_visibility: a box of which less than this share of its area is left in sight is dropped.
    """

    preset: str = "none"
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    compression: float = 0.0
    cutout: float = 0.0
    randaugment: int = 0
    magnitude: float = 5.0
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    plain_epochs: int = 0
    min_visibility: float = 0.15

    @property
    def most_pictures(self) -> int:
        """How many pictures a sample is at most made of, whose objects it may all have."""
        return (4 if self.mosaic else 1) + (self.mixup > 0) + (self.copy_paste > 0)

    def in_epoch(self, epoch: int, epochs: int | None) -> Self:
        """Return what holds in one of the epochs 0..epochs-1: in the last ones nothing strong; None for no end."""
        return self if epochs is None or epoch < epochs - self.plain_epochs else self.plain()

    def plain(self) -> Self:
        """Return it without what is strong."""
        return replace(self, cutout=0.0, randaugment=0, mosaic=0.0, mixup=0.0, copy_paste=0.0)

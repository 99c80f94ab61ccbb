"""Ours, albumentations' and torchvision's geometry agree on boxes and masks within a pixel.

So the library that warps can be replaced by the other, or by ours.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as peer

from densenet_suite.augment import AugmentPolicy, affine, library
from densenet_suite.augment.plan import Plan, Span

SIZE = (72, 100)
BOXES = np.array([[10.0, 12, 40, 50], [50, 5, 90, 30], [0, 60, 100, 72], [33.5, 20.25, 61, 41]])


def _image():
    """A picture that tells where it came from: white boxes of three of the four."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for band, (x1, y1, x2, y2) in enumerate(BOXES[:3].astype(int)):
        image[y1:y2, x1:x2, band] = 255
    return image


def _classes():
    """Blobs of a few pixels."""
    coarse = np.random.default_rng(0).integers(0, 5, (9, 10))
    return np.kron(coarse, np.ones((8, 10), int)).astype(np.uint8)


MASK = _classes()


def _ours(plan, image=None):
    boxes = plan.boxes(BOXES)
    # masks are moved as pictures of three bands are: by the nearest pixel
    mask = affine.warped(MASK[..., None], plan.matrix, plan.canvas, (255,), nearest=True)[..., 0]
    return plan.image(_image() if image is None else image, (0, 0, 0)), boxes, mask


def _peer(change, image=None):
    image = tv_tensors.Image(torch.from_numpy(_image() if image is None else image).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=SIZE)
    mask = tv_tensors.Mask(torch.from_numpy(MASK))
    image, boxes, mask = change(image), change(boxes), change(mask)
    return image.permute(1, 2, 0).numpy(), boxes.numpy(), mask.numpy()


def _assert_alike(ours, theirs, *, clipped=True):
    image, boxes, mask = ours
    their_image, their_boxes, their_mask = theirs
    height, width = image.shape[:2]
    limits = np.array([width, height, width, height])
    if clipped:
        boxes, their_boxes = boxes.clip(0, limits), their_boxes.clip(0, limits)
    assert np.abs(boxes - their_boxes).max() <= 1
    assert _away_by_more_than_a_pixel(mask, their_mask) == 0
    assert _away_by_more_than_a_pixel(image[..., 0] > 127, their_image[..., 0] > 127) == 0


def _away_by_more_than_a_pixel(mask, other):
    """Count the pixels of a mask whose value the other has nowhere within one pixel."""
    height, width = mask.shape
    padded = np.pad(other, 1, mode="edge")
    around = [padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    return int((~np.any([part == mask for part in around], axis=0)).sum())


def _still(**changes):
    whole = Plan(SIZE, SIZE, Span(0, SIZE[0], 0, SIZE[0]), Span(0, SIZE[1], 0, SIZE[1]))
    return replace(whole, **changes)


@pytest.mark.parametrize(
    ("changes", "change"),
    [({"horizontal": True}, peer.horizontal_flip), ({"vertical": True}, peer.vertical_flip)],
)
def test_mirror_images(changes, change):
    ours, theirs = _ours(_still(**changes)), _peer(change)
    _assert_alike(ours, theirs)
    assert (ours[0] == theirs[0]).all()
    assert (ours[2] == theirs[2]).all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters):
    canvas = SIZE if quarters == 2 else SIZE[::-1]
    ours = _ours(_still(canvas=canvas, quarters=quarters))
    theirs = _peer(lambda part: peer.rotate(part, 90 * quarters, expand=True))
    _assert_alike(ours, theirs)
    assert (ours[0] == theirs[0]).all()


@pytest.mark.parametrize("size", [(36, 50), (50, 75), (100, 130), (144, 200)])
def test_scales(size):
    plan = Plan(SIZE, size, Span(0, SIZE[0], 0, size[0]), Span(0, SIZE[1], 0, size[1]))
    _assert_alike(_ours(plan), _peer(lambda part: peer.resize(part, list(size))))


@pytest.mark.parametrize("seed", range(6))
def test_scales_with_crops_and_padding(seed):
    canvas = (64, 64)
    plan = Plan.draw(SIZE, canvas, AugmentPolicy(scale=(0.4, 2.5)), np.random.default_rng(seed))
    rows, columns = plan.rows, plan.columns

    def change(part):
        fill = 255 if isinstance(part, tv_tensors.Mask) else 0
        part = peer.resized_crop(
            part, rows.start, columns.start, rows.length, columns.length, [rows.extent, columns.extent]
        )
        right, bottom = canvas[1] - columns.offset - columns.extent, canvas[0] - rows.offset - rows.extent
        return peer.pad(part, [columns.offset, rows.offset, right, bottom], fill=fill)

    ours, theirs = _ours(plan), _peer(change)
    inside = np.s_[rows.offset : rows.offset + rows.extent, columns.offset : columns.offset + columns.extent]
    # a matrix alone knows no crop: beyond it lies the rest of the picture
    masks = (np.full(canvas, 255, np.uint8), np.full(canvas, 255, np.uint8))
    for mask, (_, _, whole) in zip(masks, (ours, theirs), strict=True):
        mask[inside] = whole[inside]
    _assert_alike((*ours[:2], masks[0]), (*theirs[:2], masks[1]))


@pytest.mark.parametrize("degrees", [-170, -45, -10, 3, 30, 90])
def test_turns_by_degrees(degrees):
    plan = _still(warp=affine.about(affine.rotation(degrees), SIZE))

    def change(part):
        fill = 255 if isinstance(part, tv_tensors.Mask) else 0
        how = {} if isinstance(part, tv_tensors.BoundingBoxes) else {"fill": fill}
        if isinstance(part, tv_tensors.Image):
            how["interpolation"] = peer.InterpolationMode.BILINEAR
        return peer.rotate(part, degrees, **how)

    _assert_alike(_ours(plan), _peer(change))


@pytest.mark.parametrize(("x", "y"), [(0.3, 0.0), (0.0, -0.2)])
def test_shears(x, y):
    plan = _still(warp=affine.about(affine.shearing(x, y), SIZE))
    angles = [-float(np.degrees(np.arctan(part))) for part in (x, y)]

    def change(part):
        how = {"fill": 255 if isinstance(part, tv_tensors.Mask) else 0}
        if isinstance(part, tv_tensors.Image):
            how["interpolation"] = peer.InterpolationMode.BILINEAR
        middle = [SIZE[1] / 2, SIZE[0] / 2]
        return peer.affine(part, 0.0, [0, 0], 1.0, angles, center=middle, **how)

    _assert_alike(_ours(plan), _peer(change))


# albumentations, with torchvision's boxes as the measure


def _albumentations(name, arguments):
    one = library.transform(name, arguments)
    pipeline = library.albumentations().Compose(
        [one], bbox_params=library.albumentations().BboxParams("pascal_voc", label_fields=["rows"])
    )
    changed = pipeline(image=_image(), mask=MASK, bboxes=BOXES, rows=np.arange(len(BOXES)))
    return changed["image"], np.asarray(changed["bboxes"]), changed["mask"]


@pytest.mark.parametrize(
    ("name", "changes"), [("HorizontalFlip", {"horizontal": True}), ("VerticalFlip", {"vertical": True})]
)
def test_mirror_images_of_albumentations(name, changes):
    _assert_alike(_ours(_still(**changes)), _albumentations(name, {}))


@pytest.mark.parametrize("size", [(36, 50), (100, 130)])
def test_scales_of_albumentations(size):
    plan = Plan(SIZE, size, Span(0, SIZE[0], 0, size[0]), Span(0, SIZE[1], 0, size[1]))
    _assert_alike(_ours(plan), _albumentations("Resize", {"height": size[0], "width": size[1]}))


@pytest.mark.parametrize("degrees", [-45, -10, 3, 30, 90])
def test_turns_of_albumentations(degrees):
    plan = _still(warp=affine.about(affine.rotation(degrees), SIZE))
    arguments = {"limit": (degrees, degrees), "border_mode": 0, "fill": 0, "fill_mask": 255}
    _assert_alike(_ours(plan), _albumentations("Rotate", arguments))

"""Boxes, labels, masks, crowd flags and ids stay together through every change and preset.

Each object is painted in a colour of its own, and is found again where its box or its mask says.
"""

import colorsys
from dataclasses import replace
from functools import lru_cache, partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.augment import PRESETS, AugmentPolicy, preset_policy, randaugment
from densenet_suite.augment.detection import DetectionAugment
from densenet_suite.augment.masks import MaskAugment, cut_out
from densenet_suite.augment.segmentation import SegmentationAugment
from densenet_suite.segmentation.crops import choose_crop

CANVAS = (96, 128)
PICTURES = 3
OBJECTS = 5  # of each picture
# bright and far apart, so that no mixture with black is another's
COLOURS = np.array(
    [np.array(colorsys.hsv_to_rgb(i / (PICTURES * OBJECTS), 1, 1)) * 255 for i in range(PICTURES * OBJECTS)]
).round()
COLOURLESS = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "gamma": 0, "blur": 0, "noise": 0}
COLOURLESS |= {"compression": 0, "mixup": 0}
POLICIES = {name: replace(preset_policy(name, "detection"), **COLOURLESS) for name in PRESETS}
POLICIES |= {
    key: replace(AugmentPolicy(flip=0.5, scale=(0.5, 1.6)), **{key: value})
    for key, value in {
        "rotate90": 1, "vertical_flip": 0.5, "rotate": 180, "cutout": 1, "mosaic": 1, "copy_paste": 1, "randaugment": 3
    }.items()
}  # fmt: skip


class _Painted:
    """Pictures of rectangles, and of one triangle each, with the outline that it has."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.sizes = [tuple(int(side) for side in rng.integers(70, 170, 2)) for _ in range(PICTURES)]
        self.images, self.all_boxes = [], []
        for index, (height, width) in enumerate(self.sizes):
            image, boxes = np.zeros((height, width, 3), np.uint8), []
            for row in range(OBJECTS):  # each in a column of its own, with black between them
                left = row * width // OBJECTS + 2
                right = (row + 1) * width // OBJECTS - 2
                top = int(rng.integers(0, height // 2))
                bottom = int(rng.integers(top + 10, height + 1))
                colour = COLOURS[index * OBJECTS + row].tolist()
                boxes.append([left, top, right, bottom])
                if row == 0:
                    cv2.fillPoly(image, [(self.triangle(boxes[0]) - 0.5).round().astype(np.int32)], colour)
                else:
                    image[top:bottom, left:right] = colour
            self.images.append(image)
            self.all_boxes.append(np.array(boxes, np.float64))

    @staticmethod
    def triangle(box):
        left, top, right, bottom = box
        return np.array([[left, top], [right, top], [left, bottom]], np.float64)

    def __len__(self):
        return PICTURES

    def size(self, index):
        return self.sizes[index]

    def pixels(self, index, at_least):
        assert all(least <= side for least, side in zip(at_least, self.sizes[index], strict=True))
        return self.images[index]

    def boxes(self, index):
        return self.all_boxes[index]

    def polygons(self, index, row):
        return [self.triangle(self.all_boxes[index][row])] if row == 0 else []


@lru_cache(maxsize=4)
def _pictures(seed):
    return _Painted(seed)


@pytest.fixture(autouse=True, scope="module")
def shapes_only():
    """RandAugment changes shapes and no colours here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randaugment, "available", lambda dtype, bands: randaugment.SHAPES)
        yield


def _seen(image, origin):
    """Where the colour of an object is, (x, y) of the centres of its pixels."""
    colour = COLOURS[origin[0] * OBJECTS + origin[1]]
    return np.argwhere((np.abs(image - colour) <= 3).all(-1))[:, ::-1] + 0.5


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, derandomize=True, max_examples=12)
@given(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, PICTURES - 1))
def test_each_object_is_where_its_box_says(name, content, epoch, index):
    policy = replace(POLICIES[name], min_visibility=0, plain_epochs=0)
    image, boxes, origins = DetectionAugment(policy, CANVAS, (0, 0, 0), seed=content).sample(
        _pictures(content), epoch, index
    )
    assert boxes.shape == (len(origins), 4)
    assert ((boxes >= 0) & (boxes <= [CANVAS[1], CANVAS[0]] * 2)).all()
    for origin in {tuple(origin) for origin in origins.tolist()}:
        own = boxes[(origins == origin).all(1)]
        points = _seen(image, origin)
        inside = (points[:, None] >= own[None, :, :2] - 1.5) & (points[:, None] <= own[None, :, 2:] + 1.5)
        assert inside.all(2).any(1).all()  # each pixel of it is in one of its boxes
    boxed = {tuple(origin) for origin in origins.tolist()}
    for origin in np.ndindex(PICTURES, OBJECTS):
        # what has no box is out of sight, or a sliver
        assert origin in boxed or len(_seen(image, origin)) <= max(CANVAS)


@pytest.mark.parametrize("name", ["standard", "light", "aerial", "microscopy", "none", "strong"])
@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, PICTURES - 1))
def test_the_box_is_as_large_as_the_object(name, content, epoch, index):
    policy = replace(POLICIES[name], cutout=0, mosaic=0, copy_paste=0, randaugment=0)
    image, boxes, origins = DetectionAugment(policy, CANVAS, (0, 0, 0), seed=content).sample(
        _pictures(content), epoch, index
    )
    for box, origin in zip(boxes, origins.tolist(), strict=True):
        if origin[1] == 0 or (box[2:] - box[:2]).min() < 4:
            continue  # a triangle need not fill what a crop leaves of its box; of a sliver no pixel is pure
        points = _seen(image, origin)
        assert np.concatenate([points.min(0) - 0.5, points.max(0) + 0.5]) == pytest.approx(box, abs=1.6)


def test_what_comes_along_with_a_pasted_object_has_its_box_too():
    policy = AugmentPolicy(copy_paste=1)
    pasted = 0
    for epoch in range(40):
        image, _, origins = DetectionAugment(policy, CANVAS, (0, 0, 0)).sample(_pictures(0), epoch, 0)
        assert len(_seen(image, (0, 1))) or (origins != [0, 1]).any(1).all()
        pasted += int((origins[:, 0] != 0).sum())
    assert pasted > 40


def test_a_pasted_polygon_takes_nothing_of_what_is_around_it():
    class _Bright(_Painted):
        """Pictures whose background tells whether a pixel is of the first."""

        def pixels(self, index, at_least):
            image = self.images[index]
            return np.where((image == 0).all(2, keepdims=True), np.uint8([40, 80, 120][index]), image)

    policy = AugmentPolicy(copy_paste=1, scale=(1, 1))
    pictures = _Bright(1)
    found = 0
    for epoch in range(60):
        image, _, origins = DetectionAugment(policy, CANVAS, (0, 0, 0)).sample(pictures, epoch, 0)
        others = origins[origins[:, 0] != 0]
        if len(others) and (others[:, 1] == 0).all():  # only a triangle was pasted
            found += 1
            background = [80, 120][others[0, 0] - 1]
            triangle = len(_seen(image, others[0]))
            assert (image == background).all(2).sum() <= 0.1 * triangle + 20
    assert found >= 2


# masks

MASK_POLICIES = {name: replace(preset_policy(name, "segmentation"), **COLOURLESS) for name in PRESETS}
MASK_POLICIES |= {
    key: replace(AugmentPolicy(flip=0.5, scale=(0.7, 1.4)), **{key: value})
    for key, value in {
        "rotate90": 1, "vertical_flip": 0.5, "rotate": 180, "elastic": 3,
        "cutout": 1, "mosaic": 1, "copy_paste": 1, "randaugment": 3,
    }.items()
}  # fmt: skip
CLASSES = 6


class _Scenes:
    """Scenes of classes, each in its colour."""

    def __init__(self, overlapping=False):
        self.masks = []
        for index in range(PICTURES):
            rng = np.random.default_rng(index)
            coarse = rng.integers(0, CLASSES, (8, 9)).astype(np.uint8)
            self.masks.append(cv2.resize(coarse, (150, 130), interpolation=cv2.INTER_NEAREST))
        self.images = [COLOURS[mask].astype(np.uint8) for mask in self.masks]
        self.overlapping = overlapping

    def __len__(self):
        return PICTURES

    def mask(self, index):
        mask = self.masks[index]
        return np.stack([mask == i for i in range(CLASSES)]).astype(np.uint8) if self.overlapping else mask

    def window(self, index, mask, cut):
        planes = cut_out(mask.reshape(-1, *mask.shape[-2:]).transpose(1, 2, 0), cut, (255,)).transpose(2, 0, 1)
        return cut_out(self.images[index], cut, (0, 0, 0)), planes if self.overlapping else planes[0]


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("name", MASK_POLICIES)
@settings(deadline=None, derandomize=True, max_examples=6)
@given(st.integers(0, 10**6), st.integers(0, PICTURES - 1))
def test_each_class_is_where_its_mask_says(name, overlapping, epoch, index):
    policy = replace(MASK_POLICIES[name], plain_epochs=0)
    one = MaskAugment(policy, (64, 80), (0,) * 3, (50.0,) * 3, partial(choose_crop, share_by_class=0.5))
    image, mask = SegmentationAugment(one).sample(_Scenes(overlapping), epoch, index)
    assert set(np.unique(mask).tolist()) <= ({0, 1, 255} if overlapping else {*range(CLASSES), 255})
    distances = np.abs(image[:, :, None] - COLOURS[None, None, :CLASSES]).max(-1)
    right = []
    for number in range(CLASSES):
        plane = mask[number] if overlapping else mask
        said = plane == (1 if overlapping else number)
        # away from borders, where a picture is mixed and a mask is not; some are within a class, where it was pasted
        inner = cv2.erode(said.astype(np.uint8), np.ones((7, 7)), borderValue=1).astype(bool)
        shown = cv2.erode((distances[..., number] <= 3).astype(np.uint8), np.ones((7, 7)), borderValue=1).astype(bool)
        right += [distances[inner][:, number] <= 12, said[shown & (plane != 255)]]
    assert np.concatenate(right).mean() > 0.95
    assert all(part.mean() > 0.7 for part in right if len(part) > 20)

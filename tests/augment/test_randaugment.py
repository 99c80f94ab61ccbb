"""Operations for boxes and masks too."""

import numpy as np
import pytest

from densenet_suite.augment import AugmentPolicy, affine
from densenet_suite.augment.randaugment import SHAPES, available, draw_operations, recoloured

CANVAS = (60, 80)


def _draw(seed, ops=2, magnitude=5.0, dtype=np.uint8, bands=3):
    policy = AugmentPolicy(randaugment=ops, magnitude=magnitude)
    return draw_operations(policy, CANVAS, dtype, bands, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("dtype", "bands", "colours"),
    [
        (np.uint8, 3, {"brightness", "contrast", "blur", "equalize", "posterize", "solarize", "sharpen", "saturation"}),
        (np.uint8, 1, {"brightness", "contrast", "blur", "equalize", "posterize", "solarize", "sharpen"}),
        (np.uint8, 4, {"brightness", "contrast", "blur"}),
        (np.float32, 3, {"brightness", "contrast", "blur"}),
    ],
)
def test_operations_are_those_that_the_pixels_allow(dtype, bands, colours):
    assert set(available(dtype, bands)) == set(SHAPES) | colours
    drawn = {name for seed in range(200) for name, _ in _draw(seed, dtype=dtype, bands=bands).colours}
    assert drawn == colours


def test_none_are_drawn_unless_asked_for():
    assert _draw(0, ops=0).warp is None
    assert _draw(0, ops=0).colours == ()


def test_all_are_equally_likely():
    counts = dict.fromkeys(available(np.uint8, 3), 0)
    shapes = 0
    for seed in range(1300):
        operations = _draw(seed, ops=1)
        shapes += operations.warp is not None
        for name, _ in operations.colours:
            counts[name] += 1
    assert shapes == pytest.approx(500, abs=70)
    assert all(counts[name] == pytest.approx(100, abs=35) for name in counts if name not in SHAPES)


@pytest.mark.parametrize("magnitude", [2.0, 10.0])
def test_the_magnitude_is_how_far_shapes_go(magnitude):
    farthest = 0.0
    corners = np.array([[0.0, 0], [80, 0], [80, 60], [0, 60]])
    for seed in range(100):
        warp = _draw(seed, ops=1, magnitude=magnitude).warp
        if warp is not None:
            moves = affine.moved(corners, affine.about(warp, CANVAS)) - corners
            farthest = max(farthest, float(np.abs(moves).max()))
    assert farthest == pytest.approx(0.3 * 80 * magnitude / 10, rel=0.15)  # a shift along the longer side


def test_both_sides_are_drawn():
    amounts = [amount for seed in range(100) for name, amount in _draw(seed).colours if name == "brightness"]
    assert set(amounts) == {0.5, -0.5}


@pytest.mark.parametrize("magnitude", [0.5, 5.0, 10.0])
@pytest.mark.parametrize(("dtype", "bands"), [(np.uint8, 3), (np.uint8, 1), (np.uint8, 4), (np.float32, 13)])
def test_every_operation_keeps_the_layout_and_changes_something(dtype, bands, magnitude):
    image = np.random.default_rng(0).integers(20, 220, (24, 32, bands)).astype(dtype)
    for name in set(available(dtype, bands)) - set(SHAPES):
        for side in (-1, 1):
            changed = recoloured(image, ((name, side * magnitude / 10),), np.full(bands, 50.0))
            assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
            if magnitude > 1:
                assert (changed != image).any(), name

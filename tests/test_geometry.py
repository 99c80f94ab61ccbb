import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from properties import repeatable

from densenet_suite.geometry import Letterbox, resize

side = st.integers(1, 5000)
size = st.tuples(side, side)
small = st.tuples(st.integers(1, 200), st.integers(1, 200))


@st.composite
def _boxes(draw, shape):
    height, width = shape
    corners = st.floats(0, 1, allow_nan=False, width=32)
    rows = draw(st.lists(st.tuples(corners, corners, corners, corners), max_size=6))
    shares = np.array(rows, np.float64).reshape(-1, 4)
    low, high = np.minimum(shares[:, :2], shares[:, 2:]), np.maximum(shares[:, :2], shares[:, 2:])
    return np.concatenate([low, high], 1) * [width, height, width, height]


@repeatable
@given(st.data(), size, size, st.floats(0.1, 3))
@example(None, (1, 1), (512, 512), 1.0)
@example(None, (8, 1200), (512, 512), 1.0)
@example(None, (1200, 8), (64, 96), 1.0)
@example(None, (16, 4000), (64, 96), 1.0)
def test_unmapping_gives_the_boxes_of_the_file_back(data, source, canvas, zoom):
    boxes = np.array([[0, 0, source[1], source[0]]], np.float64) if data is None else data.draw(_boxes(source))
    letterbox = Letterbox.fit(source, canvas, zoom)
    back = letterbox.unmap_boxes(letterbox.boxes(boxes))
    np.testing.assert_allclose(back, boxes, rtol=4 * np.finfo(np.float64).eps, atol=0)


@repeatable
@given(size, size)
def test_the_whole_picture_becomes_the_whole_resized_picture_inside_the_canvas(source, canvas):
    letterbox = Letterbox.fit(source, canvas)
    height, width = letterbox.resized
    assert 1 <= height <= canvas[0]
    assert 1 <= width <= canvas[1]
    assert height == canvas[0] or width == canvas[1]
    mapped = letterbox.boxes(np.array([[0, 0, source[1], source[0]]], np.float64))
    np.testing.assert_allclose(mapped, [[0, 0, width, height]], rtol=1e-15)


@repeatable
@given(size, size)
def test_the_aspect_ratio_is_kept_to_half_a_pixel(source, canvas):
    letterbox = Letterbox.fit(source, canvas)
    exact = min(canvas[0] / source[0], canvas[1] / source[1])
    for i in (0, 1):
        wanted = max(1.0, source[i] * exact)
        assert abs(letterbox.resized[i] - wanted) <= 0.5 + 1e-9


@repeatable
@given(small, small)
@example((1, 1), (64, 64))
@example((8, 1200), (64, 96))
@example((16, 4000), (64, 96))
def test_the_canvas_is_the_picture_and_the_filling(source, canvas):
    letterbox = Letterbox.fit(source, canvas)
    result = letterbox.image(np.full((*source, 3), 200, np.uint8), (1, 2, 3))
    height, width = letterbox.resized
    assert result.shape == (*canvas, 3)
    assert (result[:height, :width] == 200).all()
    assert (result[height:] == (1, 2, 3)).all()
    assert (result[:, width:] == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("source", "canvas"),
    [((90, 160), (128, 128)), ((160, 90), (64, 96)), ((37, 53), (512, 512)), ((600, 900), (128, 96))],
)
def test_what_is_painted_in_the_file_lies_where_its_box_is_mapped_to(source, canvas):
    height, width = source
    box = np.array([[round(0.2 * width), round(0.3 * height), round(0.7 * width), round(0.9 * height)]], np.float64)
    x1, y1, x2, y2 = box[0].astype(int)
    image = np.zeros((*source, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    letterbox = Letterbox.fit(source, canvas)
    painted = letterbox.image(image, (0, 0, 0))[..., 0] > 127
    rows, columns = np.nonzero(painted.any(1))[0], np.nonzero(painted.any(0))[0]
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(seen, letterbox.boxes(box)[0], atol=1)


def test_boxes_are_clipped_to_the_file():
    letterbox = Letterbox.fit((50, 100), (64, 64))
    back = letterbox.unmap_boxes(np.array([[-5.0, -5, 400, 400]]))
    assert back.tolist() == [[0, 0, 100, 50]]


def test_no_boxes_stay_no_boxes():
    letterbox = Letterbox.fit((50, 100), (64, 64))
    assert letterbox.boxes(np.zeros((0, 4))).shape == (0, 4)
    assert letterbox.unmap_boxes(np.zeros((0, 4))).shape == (0, 4)


def test_what_is_larger_than_the_canvas_is_refused():
    letterbox = Letterbox.fit((50, 100), (64, 64), zoom=1.5)
    with pytest.raises(ValueError, match=r"resized image of \(48, 96\) does not fit a canvas of \(64, 64\): crop it"):
        letterbox.image(np.zeros((50, 100, 3), np.uint8), (0, 0, 0))


@repeatable
@given(small, small, st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
@example((1, 1), (17, 33), 3, 0)
@example((8, 1200), (1, 96), 3, 1)
@example((16, 400), (2, 3), 1, 2)
def test_resize_equals_pillows_bilinear_within_two_grey_levels(source, target, bands, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*source, bands), dtype=np.uint8)
    ours = resize(image, *target)
    picture = Image.fromarray(image[..., 0] if bands == 1 else image)
    theirs = np.asarray(picture.resize(target[::-1], Image.Resampling.BILINEAR)).reshape(*target, bands)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


@pytest.mark.parametrize("target", [(31, 45), (200, 333)])
def test_resize_of_floats_equals_pillows(target):
    image = np.random.default_rng(0).normal(size=(90, 120, 1)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(image[..., 0]).resize(target[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize(image, *target)[..., 0], theirs, atol=1e-4)


def test_resize_keeps_sixteen_bits():
    image = np.random.default_rng(0).integers(0, 65536, (40, 60, 1), dtype=np.uint16)
    ours = resize(image, 20, 30)
    theirs = np.asarray(Image.fromarray(image[..., 0].astype(np.float32)).resize((30, 20), Image.Resampling.BILINEAR))
    assert ours.dtype == np.uint16
    assert np.abs(ours[..., 0] - theirs).max() <= 0.51


def test_resize_to_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert (resize(image, 9, 7) == image).all()

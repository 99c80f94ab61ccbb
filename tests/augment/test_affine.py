"""Straight changes of shape as matrices."""

import numpy as np
import pytest

from densenet_suite.augment import affine

SIZE = (30, 40)
POINTS = np.array([[0.5, 0.5], [39.5, 0.5], [10.5, 20.5], [39.5, 29.5]])


def _image(points=POINTS, size=SIZE):
    """Points of a value of their own."""
    image = np.zeros((*size, 1), np.uint8)
    for i, (x, y) in enumerate(points):
        image[int(y), int(x)] = 50 * (i + 1)
    return image


def _places(image, count=4):
    found = [np.argwhere(image[..., 0] == 50 * (i + 1)) for i in range(count)]
    return np.array([place[0][::-1] + 0.5 for place in found])


@pytest.mark.parametrize("quarters", range(5))
def test_quarter_turns_are_numpys(quarters):
    turned = np.rot90(_image(), quarters)
    assert affine.moved(POINTS, affine.turning(quarters, SIZE)) == pytest.approx(_places(turned))


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("horizontal", [False, True])
def test_mirror_images_are_numpys(vertical, horizontal):
    mirrored = _image()[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    assert affine.moved(POINTS, affine.mirroring(vertical, horizontal, SIZE)) == pytest.approx(_places(mirrored))


def test_a_turn_by_90_degrees_is_a_quarter_turn():
    assert affine.about(affine.rotation(90), (30, 30)) == pytest.approx(affine.turning(1, (30, 30)))


def test_the_middle_stays_where_it_is():
    for matrix in (affine.rotation(33), affine.shearing(0.2, 0), affine.shearing(0, -0.3)):
        assert affine.moved(np.array([20.0, 15]), affine.about(matrix, SIZE)) == pytest.approx([20, 15])


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("bands", [1, 3, 4, 5, 9])
def test_pixels_go_where_their_points_go(nearest, bands):
    matrix = affine.turning(1, SIZE)
    image = np.repeat(_image(), bands, 2)
    assert (affine.warped(image, matrix, (40, 30), (0,) * bands, nearest=nearest) == np.rot90(image)).all()


@pytest.mark.parametrize("bands", [1, 3, 4, 5, 9])
def test_what_comes_from_outside_is_the_filling_of_each_band(bands):
    fill = tuple(range(10, 10 + bands))
    image = np.full((*SIZE, bands), 200, np.float32)
    shifted = affine.warped(image, affine.scaling(1, 1, 7, 0), SIZE, fill, nearest=False)
    assert (shifted[:, :7] == fill).all()
    assert (shifted[:, 7:] == 200).all()


def test_the_box_of_a_turned_box_is_around_its_corners():
    box = np.array([[10.0, 10, 20, 20]])
    around = affine.moved_boxes(box, affine.about(affine.rotation(45), (30, 30)))
    half = 5 * 2**0.5
    assert around == pytest.approx(np.array([[15 - half, 15 - half, 15 + half, 15 + half]]))
    assert affine.moved_boxes(np.zeros((0, 4)), np.eye(3)).shape == (0, 4)

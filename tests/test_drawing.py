import numpy as np
import pytest

from densenet_suite.drawing import (
    captioned,
    class_colour,
    contact_sheet,
    displayable,
    draw_boxes,
    draw_mask,
    enlarged,
    legend,
)


@pytest.fixture
def grey():
    return np.full((200, 300, 3), 128, np.uint8)


def _changed(image, drawn):
    return (image != drawn).any(-1)


def test_neighbouring_classes_have_colours_that_differ():
    colours = np.array([class_colour(i) for i in range(90)])
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 100
    assert len({tuple(colour) for colour in colours.tolist()}) == 90


def test_a_box_is_outlined_in_the_colour_of_its_class(grey):
    drawn = draw_boxes(grey, np.array([[50.0, 60, 150, 120]]), [3], [""])
    changed = _changed(grey, drawn)
    rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
    np.testing.assert_allclose([columns[0], rows[0], columns[-1], rows[-1]], [50, 60, 150, 120], atol=1)
    assert (drawn[changed] == class_colour(3)).all()
    assert not changed[70:110, 60:140].any()


def test_the_image_that_is_given_stays_as_it_is(grey):
    before = grey.copy()
    draw_boxes(grey, np.array([[50.0, 60, 150, 120]]), [3], ["disc 0.9"])
    assert (grey == before).all()


def test_no_boxes_change_nothing(grey):
    assert (draw_boxes(grey, np.zeros((0, 4)), [], []) == grey).all()


def test_small_boxes_are_drawn_over_large_ones(grey):
    small, large = [100.0, 50, 140, 90], [100.0, 20, 250, 180]
    drawn = draw_boxes(grey, np.array([small, large]), [0, 1], ["", ""])
    assert tuple(drawn[70, 100]) == class_colour(0)


@pytest.mark.parametrize(
    "box",
    [[-40.0, -30, 350, 250], [0, 0, 4, 4], [296, 196, 300, 200], [-90, 5, -20, 20], [10, 10, 10, 10]],
    ids=["around", "top left", "bottom right", "outside", "a point"],
)
def test_a_label_is_whole_wherever_its_box_is(grey, box):
    def label(box):
        boxes = np.array([box])
        written = _changed(draw_boxes(grey, boxes, [2], [""]), draw_boxes(grey, boxes, [2], ["disc 0.93"]))
        return np.ptp(np.nonzero(written.any(1))), np.ptp(np.nonzero(written.any(0)))

    np.testing.assert_allclose(label(box), label([50.0, 60, 150, 120]), atol=1)


def test_labels_of_boxes_at_one_place_do_not_cover_each_other(grey):
    box = np.array([[100.0, 80, 200, 120]])
    alone = [_changed(grey, draw_boxes(grey, box, [label], ["square"])).sum() for label in (0, 1)]
    lines = _changed(grey, draw_boxes(grey, box, [0], [""])).sum()
    both = _changed(grey, draw_boxes(grey, box.repeat(2, 0), [0, 1], ["square", "square"])).sum()
    assert both >= (sum(alone) - lines) * 0.9


def test_a_crowd_region_is_drawn_in_dashes(grey):
    boxes = np.array([[50.0, 60, 250, 160]])
    solid = _changed(grey, draw_boxes(grey, boxes, [0], [""]))
    dashed = _changed(grey, draw_boxes(grey, boxes, [0], [""], dashed=[True]))
    assert 0.35 < dashed[60, 50:250].mean() < 0.75
    assert solid[60, 50:250].all()
    assert 0.35 < dashed[60:160, 50].mean() < 0.75


def test_a_picture_of_one_pixel_can_be_drawn_on():
    drawn = draw_boxes(np.zeros((1, 1, 3), np.uint8), np.array([[0.0, 0, 1, 1]]), [0], ["disc"])
    assert drawn.shape == (1, 1, 3)


def test_a_small_picture_is_enlarged_by_a_whole_factor_with_its_boxes():
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    large, boxes = enlarged(image, np.array([[1.0, 2, 30, 40]]))
    assert large.shape == (320, 512, 3)
    assert (large[::8, ::8] == image).all()
    assert boxes.tolist() == [[8, 16, 240, 320]]


@pytest.mark.parametrize("shape", [(480, 300, 3), (100, 900, 3)])
def test_a_large_picture_stays_as_it_is(shape):
    image, boxes = np.zeros(shape, np.uint8), np.ones((1, 4))
    assert enlarged(image, boxes)[0] is image
    assert enlarged(image, boxes)[1] is boxes


def test_a_contact_sheet_holds_every_picture_in_its_cell():
    pictures = [np.full((10 + i, 20 - i, 3), 40 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(pictures, columns=2, gap=3)
    assert sheet.shape == (3 * 14 + 2 * 3, 2 * 20 + 3, 3)
    for i, picture in enumerate(pictures):
        y, x = i // 2 * 17, i % 2 * 23
        assert (sheet[y : y + picture.shape[0], x : x + picture.shape[1]] == picture).all()
    assert (sheet[14:17] == 255).all()
    assert (sheet[34:, 23:] == 255).all()


def test_a_sheet_of_fewer_pictures_than_columns_is_one_row():
    assert contact_sheet([np.zeros((10, 20, 3), np.uint8)], columns=4, gap=2).shape == (10, 86, 3)


NAMES, COLOURS = ("ground", "water", "roof"), ((0, 0, 0), (0, 0, 200), (200, 0, 0))


def _regions():
    mask = np.zeros((200, 300), np.uint8)
    mask[50:100, 50:200] = 1
    mask[120:160, 50:200] = 2
    return mask


def test_a_mask_tints_its_pixels_and_outlines_them(grey):
    drawn = draw_mask(grey, _regions(), COLOURS, NAMES)
    assert drawn[70, 100].tolist() == [70, 70, 160]  # grey and blue
    assert drawn[140, 100].tolist() == [160, 70, 70]
    assert drawn[50, 100].tolist() == [0, 0, 200]


def test_black_is_background_and_stays_as_it_is(grey):
    drawn = draw_mask(grey, _regions(), COLOURS, NAMES)
    changed = _changed(grey, drawn[:200])
    assert not changed[:50].any()
    assert not changed[:, 210:].any()


def test_the_legend_is_below_the_picture_and_names_what_occurs(grey):
    both = draw_mask(grey, _regions(), COLOURS, NAMES)
    one = draw_mask(grey, np.where(_regions() == 1, 0, _regions()), COLOURS, NAMES)
    none = draw_mask(grey, np.zeros((200, 300), np.uint8), COLOURS, NAMES)
    assert both.shape[1] == 300
    assert both.shape[0] > none.shape[0] == 200
    assert (none == grey).all()
    for colour, shown in (((0, 0, 200), both), ((200, 0, 0), one)):
        assert (shown[200:] == colour).all(-1).any()
    assert not (one[200:] == (0, 0, 200)).all(-1).any()


def test_a_legend_that_does_not_fit_a_row_takes_several(grey):
    names = tuple(f"a class with a long name {i}" for i in range(6))
    colours = tuple(class_colour(i) for i in range(6))
    mask = np.arange(6, dtype=np.uint8).repeat(50)[None].repeat(200, 0)
    drawn = draw_mask(grey, mask, colours, names)
    for colour in colours:
        assert (drawn[200:] == colour).all(-1).any()


def test_classes_that_overlap_mix_their_colours(grey):
    layers = np.zeros((2, 200, 300), np.uint8)
    layers[0, :, 50:150] = layers[1, :, 100:200] = 1
    drawn = draw_mask(grey, layers, COLOURS[1:], NAMES[1:])
    assert drawn[9, 70].tolist() == [70, 70, 160]
    assert drawn[9, 120].tolist() == [115, 70, 115]
    assert drawn[9, 170].tolist() == [160, 70, 70]


def test_pixels_of_which_nothing_is_known_are_hatched():
    white = np.full((200, 300, 3), 255, np.uint8)
    mask = np.zeros((200, 300), np.uint8)
    mask[:, 150:] = 255
    for ground in (white, white // 2, 0 * white):
        drawn = draw_mask(ground, mask, COLOURS, NAMES)
        changed = _changed(ground, drawn[:200])
        assert 0.25 <= changed[:, 150:].mean() <= 0.5  # stripes of black beside white, which show on any ground
        assert not changed[:, :150].any()
        assert len(drawn) > 200  # the legend says what they are


def test_a_caption_that_is_too_long_is_shortened_in_its_middle():
    picture = np.full((60, 90, 3), 128, np.uint8)
    short, long = captioned(picture, "a.jpg"), captioned(picture, "a" * 200)
    assert short.shape == long.shape
    assert (short[-60:] == picture).all()
    strip = long[:-60]
    assert (strip < 128).any(axis=(0, 2)).nonzero()[0].max() < 90 - 1  # nothing is cut off


def test_a_legend_names_every_entry_in_as_many_rows_as_it_needs():
    entries = [(f"class {i}", class_colour(i)) for i in range(12)]
    drawn = legend(entries, 200, 300)
    assert drawn.shape[1] == 200
    for _, colour in entries:
        assert (drawn == colour).all(-1).any()
    assert (legend([("x" * 300, None)], 200, 300)[:, -1] == 255).all()


def test_values_of_any_range_become_a_picture():
    deep = np.random.default_rng(0).normal(2000, 300, (50, 60, 13)).astype(np.float32)
    shown = displayable(deep)
    assert (shown.shape, shown.dtype) == ((50, 60, 3), np.uint8)
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.corrcoef(shown[..., 1].ravel(), deep[..., 1].ravel())[0, 1] > 0.98
    assert (displayable(np.full((5, 6, 1), 0.3, np.float32)) == 0).all()


def test_eight_bits_are_shown_as_they_are():
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert (displayable(colours) == colours).all()
    assert (displayable(colours[..., :2]) == colours[..., :1]).all()

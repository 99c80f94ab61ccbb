"""From the values in mask files to classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_suite.errors import ConfigError
from densenet_suite.segmentation.masks import FileMask, MaskCodec, _apply
from densenet_suite.segmentation.scene_files import MaskError
from densenet_suite.segmentation.structures import MaskClasses

STREET = {"sky": 0, "road": 1, "car": [2, 7]}
COLOURS = {"sky": "#0000FF", "road": "#804080", "car": ["#FF0000", "#00FF00"]}
RGB = np.array([[[0, 0, 255], [128, 64, 128]], [[255, 0, 0], [0, 255, 0]]], np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(array, name="mask.png", **options):
        Image.fromarray(np.asarray(array)).save(tmp_path / name, **options)
        return tmp_path / name

    return save


def _decode(table, *paths, **options):
    return MaskCodec.create(table, **options).decode(paths).mask.tolist()


def _u8(*rows):
    return np.array(rows, np.uint8)


def test_numbers_become_classes_and_255_stays(save):
    assert _decode(STREET, save(_u8([0, 1, 2], [7, 255, 1]))) == [[0, 1, 2], [2, 255, 1]]


def test_masks_are_uint8(save):
    assert MaskCodec.create(STREET).decode([save(_u8([0, 1]))]).mask.dtype == np.uint8


def test_255_may_be_a_class(save):
    assert _decode({"background": 0, "cell": 255}, save(_u8([0, 255]))) == [[0, 1]]


def test_more_values_may_be_ignored(save):
    assert _decode({"a": 0, "b": 1}, save(_u8([0, 1, 11, 254])), ignore=[11, 254]) == [[0, 1, 255, 255]]


def test_the_order_of_classes_is_that_of_the_table_or_the_model(save):
    path = save(_u8([0, 1, 2]))
    assert _decode({"car": 2, "road": 1, "sky": 0}, path) == [[2, 1, 0]]
    trained = MaskClasses(("road", "sky", "car"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    codec = MaskCodec.create(STREET, given=trained)
    assert codec.classes is trained
    assert codec.decode([path]).mask.tolist() == [[1, 0, 2]]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    st.lists(st.integers(0, 65535), min_size=2, max_size=40, unique=True),
    st.integers(1, 20),
    st.sampled_from([np.uint16, np.int32, np.int64]),
)
def test_any_table_is_looked_up_as_a_plain_loop_would(values, classes, dtype):
    owner = {value: i % (classes + 1) for i, value in enumerate(values)}  # the last class is ignored
    owner = {value: 255 if label == classes else label for value, label in owner.items()}
    owner = {255: 255, **owner}
    entries = tuple(owner.items())
    codes = np.random.default_rng(0).choice([*owner, *values], (7, 9)).astype(dtype)
    assert _apply(codes, entries).tolist() == [[owner[code] for code in row] for row in codes.tolist()]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_numbers_are_looked_up(save, dtype):
    assert _decode({"a": 300, "b": [70, 65000]}, save(np.array([[300, 70, 65000]], dtype), "mask.tif")) == [[0, 1, 1]]


def test_negative_numbers_can_be_named(save):
    assert _decode({"a": 0, "b": 1}, save(np.array([[0, 1, -9999]], np.int32), "m.tif"), ignore=[-9999]) == [
        [0, 1, 255]
    ]


def test_no_data_is_ignored_unless_it_is_a_class(save):
    path = save(_u8([0, 1, 9]), "mask.tif", tiffinfo={42113: "9"})
    assert _decode({"a": 0, "b": 1}, path) == [[0, 1, 255]]
    path = save(_u8([0, 1, 1]), "mask.tif", tiffinfo={42113: "0"})
    assert _decode({"a": 0, "b": 1}, path) == [[0, 1, 1]]


def test_colours_become_classes(save):
    assert _decode(COLOURS, save(RGB)) == [[0, 1], [2, 2]]


def test_alpha_is_no_part_of_a_colour(save):
    assert _decode(COLOURS, save(np.dstack([RGB, _u8([0, 9], [255, 1])]))) == [[0, 1], [2, 2]]


def test_a_palette_is_read_as_numbers_or_as_colours(save, tmp_path):
    image = Image.fromarray(_u8([0, 1], [2, 7]))
    image = image.convert("P")
    image.putpalette([0, 0, 255, 128, 64, 128, 255, 0, 0] + [0] * 12 + [0, 255, 0])
    image.save(tmp_path / "mask.png")
    assert _decode(STREET, tmp_path / "mask.png") == [[0, 1], [2, 2]]
    assert _decode(COLOURS, tmp_path / "mask.png") == [[0, 1], [2, 2]]


def test_greys_are_colours_too(save):
    assert _decode({"a": "#000000", "b": "#FFFFFF", "c": "#808080"}, save(_u8([0, 255, 128]))) == [[0, 1, 2]]


def test_greys_in_three_channels_are_numbers(save):
    assert _decode(STREET, save(np.repeat(_u8([0, 1, 2])[..., None], 3, 2))) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("table", "white"),
    [
        ({"a": 0, "b": 1}, 1),
        ({"a": 0, "b": 255}, 1),
        ({"a": "#000000", "b": "#FFFFFF"}, 1),
        ({"a": 1, "b": [0, 255]}, 0),
    ],
)
def test_white_of_one_bit_is_1_or_255(save, table, white):
    found = _decode(table, save(np.array([[False, True]])))
    assert found == [[1 - white, white]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_value_of_no_class_is_an_error_with_its_place(save, dtype):
    values = np.zeros((5, 6), dtype)
    values[2, 3:] = 57
    values[4, 0] = 9
    path = save(values, "mask.tif")
    with pytest.raises(MaskError) as caught:
        _decode(STREET, path)
    (problem,) = caught.value.problems
    assert problem.what == "mask holds 57 (3 pixels), 9 (1 pixel), of no class; the first at row 2, column 3"
    assert problem.where == str(path)
    assert problem.hint == "give it to a class of data.classes, or to data.ignore; known are 0, 1, 2, 7"
    assert caught.value.check == "mask-values"


def test_the_commonest_of_many_values_are_listed(save):
    with pytest.raises(MaskError, match=r"mask holds 40 \(2 pixels\), 2 \(1 pixel\), .* and 3 more, of no"):
        _decode({"a": 0, "b": 1}, save(_u8([*range(2, 12), 40, 40])))


def test_a_colour_of_no_class_is_an_error_with_its_place(save):
    array = RGB.copy()
    array[1, 1] = 1, 2, 3
    with pytest.raises(MaskError, match=r"mask holds #010203 \(1 pixel\), of no class; the first at row 1, column 1"):
        _decode(COLOURS, save(array))


def test_a_value_of_a_palette_is_named_with_its_colour(save, tmp_path):
    image = Image.fromarray(_u8([0, 1])).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "mask.png")
    with pytest.raises(MaskError) as caught:
        _decode({"a": 0, "b": 255}, tmp_path / "mask.png")
    hint = "the file has a palette (1 is #FFFFFF): give colours to data.classes to read it by them"
    assert caught.value.problems[0].hint == hint


def test_colours_are_never_taken_for_numbers(save):
    path = save(RGB)
    with pytest.raises(MaskError, match="mask is in colours where numbers are expected: ") as caught:
        _decode(STREET, path)
    (problem,) = caught.value.problems
    assert problem.what.count("(1 pixel)") == 4
    assert (problem.where, caught.value.check) == (str(path), "mask-coloured")
    assert problem.hint == "say which class each colour is: data.classes={road: '#804080', ...}"


def test_deep_numbers_are_no_colours(save):
    with pytest.raises(MaskError, match="mask has 1 channels of uint16, and the class table has colours") as caught:
        _decode(COLOURS, save(np.array([[0, 1]], np.uint16)))
    assert caught.value.problems[0].hint == "give the numbers of the classes: data.classes={road: 1, ...}"


def _disc(side=64):
    y, x = np.mgrid[:side, :side] - side / 2
    return np.where(x**2 + y**2 < (side / 3) ** 2, 255, 0).astype(np.uint8)


def test_a_jpeg_is_recognised(save):
    with pytest.raises(MaskError) as caught:
        _decode({"a": 0, "b": 255}, save(_disc(), "mask.jpg", quality=70))
    assert caught.value.check == "mask-lossy"
    assert caught.value.problems[0].hint == (
        "JPEG and the like change the values near edges: export masks as PNG, "
        "or take the nearest: data.nearest_colour=true"
    )


def test_ids_of_a_jpeg_have_no_nearest(save):
    with pytest.raises(MaskError) as caught:
        _decode(STREET, save(_disc(), "mask.jpg", quality=70))
    assert caught.value.problems[0].hint == "JPEG and the like change the values near edges: export masks as PNG"


def test_smoothed_edges_are_recognised(save):
    smooth = Image.fromarray(np.dstack([_disc(256)] * 2 + [np.full((256, 256), 90, np.uint8)]))
    path = save(smooth.resize((50, 50), Image.Resampling.BILINEAR))
    with pytest.raises(MaskError) as caught:
        _decode({"a": "#00005A", "b": "#FFFF5A"}, path)
    assert caught.value.check == "mask-smoothed"
    assert caught.value.problems[0].hint == (
        "so many values come from smoothed edges (anti-aliasing), or from a JPEG before it was a PNG: "
        "export masks without, or take the nearest: data.nearest_colour=true"
    )


@pytest.mark.parametrize("name", ["mask.jpg", "mask.png"])
def test_the_nearest_colour_is_taken_when_asked_for(save, name):
    colours = np.array([[0, 0, 255], [128, 64, 128], [255, 0, 0]], np.uint8)
    truth = np.kron(np.array([[0, 1], [2, 1]]), np.ones((16, 16), int))
    noise = np.random.default_rng(0).integers(-20, 21, (32, 32, 3))
    picture = np.clip(colours[truth] + (noise if name == "mask.png" else 0), 0, 255).astype(np.uint8)
    path = save(picture, name, **({"quality": 95, "subsampling": 0} if name == "mask.jpg" else {}))
    table = {"sky": "#0000FF", "road": "#804080", "car": "#FF0000"}
    found = MaskCodec.create(table, nearest=True).decode([path])
    assert found.mask.tolist() == truth.tolist()
    exact = (np.asarray(Image.open(path)) == colours[truth]).all(2)
    assert found.nearest == (~exact).sum() > 0


def test_the_nearest_shade_of_grey_is_taken_when_asked_for(save):
    found = MaskCodec.create({"a": 0, "b": 255}, nearest=True).decode([save(_u8([0, 1, 127, 128, 254, 255]))])
    assert found.mask.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert found.nearest == 4


def test_ids_are_no_shades():
    with pytest.raises(ConfigError, match="a value between two ids is neither") as caught:
        MaskCodec.create(STREET, nearest=True)
    hint = "leave data.nearest_colour out, and export the masks without loss, as PNG"
    assert caught.value.problems[0].hint == hint


class TestOverlappingClasses:
    def test_a_single_class_is_yes_or_no(self, save):
        assert _decode({"vessel": 1}, save(_u8([0, 1, 255])), multilabel=True) == [[[0, 1, 255]]]
        assert _decode({"vessel": 255}, save(_u8([0, 255])), multilabel=True) == [[[0, 1]]]

    def test_one_file_for_each_class(self, save):
        paths = save(_u8([0, 255]), "a.png"), save(_u8([255, 255]), "b.png")
        assert _decode({"x": 255, "y": 255}, *paths, multilabel=True) == [[[0, 1]], [[1, 1]]]

    def test_files_of_one_image_have_one_size(self, save):
        paths = save(_u8([0, 255]), "a.png"), save(_u8([255, 255, 0]), "b.png")
        with pytest.raises(MaskError, match=r"differ in size .*a\.png is 2x1, .*b\.png is 3x1"):
            _decode({"x": 255, "y": 255}, *paths, multilabel=True)

    @pytest.mark.parametrize("k", [3, 4])
    def test_one_channel_for_each_class(self, save, k):
        truth = np.random.default_rng(0).integers(0, 2, (5, 6, k), np.uint8)
        found = _decode({f"c{i}": 255 for i in range(k)}, save(truth * 255), multilabel=True)
        assert found == truth.transpose(2, 0, 1).tolist()

    def test_channels_of_a_tiff(self, tmp_path):
        rasterio = pytest.importorskip("rasterio")
        truth = np.random.default_rng(0).integers(0, 2, (5, 4, 6), np.uint8)
        with rasterio.open(
            tmp_path / "m.tif", "w", driver="GTiff", height=4, width=6, count=5, dtype="uint8",
            transform=(2, 0, 5, 0, -2, 6),
        ) as file:  # fmt: skip
            file.write(truth)
        table = {f"c{i}": 1 for i in range(5)}
        assert _decode(table, tmp_path / "m.tif", multilabel=True) == truth.tolist()
        with pytest.raises(MaskError, match="mask has 5 channels, and there are 2 classes") as caught:
            _decode({"a": 0, "b": 1}, tmp_path / "m.tif")
        assert caught.value.check == "mask-channels"
        assert caught.value.problems[0].hint.endswith("data.multilabel=true, data.classes={...}")

    def test_one_channel_may_hold_regions_inside_each_other(self, save):
        table = {"tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
        found = _decode(table, save(_u8([0, 1, 2, 3, 255])), multilabel=True)
        assert found == [[[0, 1, 1, 1, 255]], [[0, 0, 1, 1, 255]], [[0, 0, 0, 1, 255]]]

    def test_colours_may_be_of_several_classes(self, save):
        table = {"red": ["#FF0000", "#FF00FF"], "blue": ["#0000FF", "#FF00FF"]}
        colours = np.array([[[0, 0, 0], [255, 0, 0], [0, 0, 255], [255, 0, 255]]], np.uint8)
        assert _decode(table, save(colours), multilabel=True) == [[[0, 1, 0, 1]], [[0, 0, 1, 1]]]

    def test_a_value_of_no_class_is_an_error(self, save):
        with pytest.raises(MaskError, match=r"mask holds 7 \(1 pixel\), of no class; the first at row 0, column 1"):
            _decode({"vessel": 255}, save(_u8([0, 7])), multilabel=True)


def test_a_mask_in_files_knows_its_place(save):
    path = save(_u8([0, 1]))
    mask = FileMask(MaskCodec.create(STREET), (path,))
    assert mask.place == str(path)
    assert mask.decode().mask.tolist() == [[0, 1]]


@pytest.mark.parametrize("name", ["tile1_part001", "tile3_part006"])
def test_colour_masks_decode_to_the_index_masks_made_from_them(data_folder, name):
    folder = data_folder("dubai-aerial")
    table = {"water": "#E2A929", "land": "#8429F6", "road": "#6EC1E4", "building": "#3C1098", "plants": "#FEDD3A"}
    codec = MaskCodec.create({**table, "unlabeled": "#9B9B9B"}, ignore=["#000000"])
    found = codec.decode([folder / "masks-colour/train" / f"{name}.png"]).mask
    assert (found == np.asarray(Image.open(folder / "masks/train" / f"{name}.png"))).all()

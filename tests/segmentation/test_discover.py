"""The class table of a dataset."""

import json

import numpy as np
import pytest
from PIL import Image

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.segmentation.discover import discover, find_codec
from densenet_suite.segmentation.layout import CocoFile, find_split
from densenet_suite.segmentation.pairing import Pair, PairedFiles
from densenet_suite.segmentation.structures import MaskClasses

BINARY = {"background": 0, "foreground": 1}


def _u8(*rows):
    return np.array(rows, np.uint8)


@pytest.fixture
def files(tmp_path):
    """Write masks and return a split of them; dicts are masks by layer."""

    def files(*masks, ending="png", **options):
        pairs = []
        layers = tuple(masks[0]) if isinstance(masks[0], dict) else ()
        for i, mask in enumerate(masks):
            paths = []
            for layer in layers or ("",):
                path = tmp_path / f"{layer}{i}.{ending}"
                Image.fromarray(mask[layer] if layers else mask).save(path, **options)
                paths.append(path)
            pairs.append(Pair(tmp_path / f"image{i}.jpg", tuple(paths)))
        return PairedFiles(tmp_path, tuple(pairs), layers)

    return files


@pytest.mark.parametrize("white", [1, 255])
def test_two_values_are_background_and_foreground(files, white):
    assert discover(files(_u8([0, 0]), _u8([0, white]))) == {"background": 0, "foreground": white}


def test_numbers_are_classes_and_255_is_ignored(files):
    assert discover(files(_u8([0, 4]), _u8([255, 17]))) == {"0": 0, "4": 4, "17": 17}
    assert discover(files(_u8([0, 1, 255]), _u8([0, 0, 0]))) == {"0": 0, "1": 1}


def test_ignored_values_are_no_classes(files):
    assert discover(files(_u8([0, 1, 2, 11])), ignore=[11]) == {"0": 0, "1": 1, "2": 2}


@pytest.mark.parametrize(("others", "white"), [([], 1), ([0, 255], 255), ([0, 1], 1)])
def test_white_of_one_bit_is_what_it_is_elsewhere(files, others, white):
    masks = [np.array([[False, True]])] + ([_u8(others)] if others else [])
    found = files(*masks)
    assert discover(found) == {"background": 0, "foreground": white}
    codec = find_codec(found)
    assert all(codec.decode(pair.masks).mask.tolist() == [[0, 1]] for pair in found.pairs)


def test_one_value_is_nothing_to_tell_apart(files, tmp_path):
    with pytest.raises(DataError, match=r"the masks hold 0 \(2 pixels\), and so nothing to tell apart") as caught:
        discover(files(_u8([0, 0])))
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path)
    assert problem.hint == "say what they mean: data.classes={background: 0, road: 1, ...}"


def test_masks_of_0_1_beside_masks_of_0_255_are_unclear(files):
    with pytest.raises(DataError) as caught:
        discover(files(_u8([0, 1]), _u8([0, 255])))
    (problem,) = caught.value.problems
    assert problem.what == "some masks hold 0 and 1 (0.png), others 0 and 255 (1.png), and none both"
    assert problem.hint == (
        "say whether 255 is a class, data.classes={background: 0, foreground: [1, 255]}, "
        "or ignored, data.classes={background: 0, foreground: 1}"
    )


def test_colours_are_listed(files):
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 200
    with pytest.raises(DataError) as caught:
        discover(files(red, np.zeros_like(red)))
    (problem,) = caught.value.problems
    assert problem.what == "1 of 2 masks are in colours, first 0.png: #C80000 (6 pixels)"
    assert problem.hint == "say which class each colour is: data.classes={road: '#804080', ...}"


def test_colours_of_palettes_are_listed_with_others(tmp_path, files):
    palette = Image.fromarray(_u8([0, 1, 1])).convert("P")
    palette.putpalette([1, 2, 3, 200, 0, 0])
    palette.save(tmp_path / "p.png")
    found = files(np.full((1, 1, 3), [200, 0, 0], np.uint8))
    with pytest.raises(DataError, match=r"1 of 2 masks are in .*: #C80000 \(3 pixels\), #010203 \(1 pixel\)"):
        discover(PairedFiles(tmp_path, (*found.pairs, Pair(tmp_path / "p.jpg", (tmp_path / "p.png",)))))


def test_lossy_masks_show_nothing(files):
    with pytest.raises(DataError, match=r"1 of 1 masks are JPEGs or the like, first 0\.jpg: ") as caught:
        discover(files(_u8([0, 255]), ending="jpg"))
    assert caught.value.problems[0].hint == (
        "export them as PNG; or name the classes, and take the nearest: data.nearest_colour=true"
    )


@pytest.mark.parametrize("values", [range(66), [*[0] * 50, 90, 130, 200, 255]])
def test_too_many_values_and_smoothed_edges_are_no_ids(files, values):
    with pytest.raises(DataError, match="too many to be ids, or edges that were smoothed"):
        discover(files(_u8(list(values))))


def test_a_dataset_without_masks_names_the_images(tmp_path):
    images = tuple(tmp_path / f"{i}.jpg" for i in range(2))
    with pytest.raises(DataError, match=r"2 images have no mask: 0\.jpg, 1\.jpg") as caught:
        discover(PairedFiles(tmp_path, (), (), images, (), "look there"))
    assert caught.value.problems[0].hint == "look there"
    with pytest.raises(DataError, match="there are no masks to find the classes in"):
        discover(PairedFiles(tmp_path, ()))


class TestOverlappingClasses:
    def test_folders_are_classes(self, files):
        found = files({"x": _u8([0, 255]), "y": _u8([255, 0])})
        assert discover(found, multilabel=True) == {"x": 255, "y": 255}

    def test_255_is_ignored_where_1_says_yes(self, files):
        found = files({"x": _u8([0, 1]), "y": _u8([1, 255])})
        assert discover(found, multilabel=True) == {"x": 1, "y": 1}
        assert find_codec(found, multilabel=True).decode(found.pairs[0].masks).mask.tolist() == [[[0, 1]], [[1, 255]]]

    def test_channels_are_classes(self, files):
        channels = np.array([[[0, 255, 0], [255, 255, 0]]], np.uint8)
        found = files(channels, np.zeros_like(channels))
        assert discover(found, multilabel=True) == {"channel 1": 255, "channel 2": 255, "channel 3": 255}
        codec = find_codec(found, multilabel=True)
        assert [codec.decode(pair.masks).mask.shape for pair in found.pairs] == [(3, 1, 2)] * 2

    def test_one_channel_is_one_class(self, files):
        assert discover(files(_u8([0, 1])), multilabel=True) == {"foreground": 1}

    def test_other_values_have_to_be_explained(self, files):
        with pytest.raises(DataError, match=r"the masks hold 0 .*, and classes may overlap") as caught:
            discover(files(_u8([0, 1, 2])), multilabel=True)
        assert caught.value.problems[0].hint == "say what means which: data.classes={...}"

    def test_all_masks_have_the_same_channels(self, files):
        colours = np.array([[[0, 255, 0], [255, 255, 0]]], np.uint8)
        four = np.dstack([colours, _u8([255, 255])])
        with pytest.raises(DataError, match="masks have 3 or 4 channels, and classes may overlap"):
            discover(files(colours, four), multilabel=True)


class TestTrainedModel:
    def _classes(self, *names, multilabel=False):
        return MaskClasses(names, tuple((i, i, i) for i in range(len(names))), multilabel)

    @pytest.mark.parametrize(("values", "white"), [([0, 0], 1), ([0, 255], 255), ([0, 1], 1)])
    def test_a_split_need_not_show_both_classes(self, files, values, white):
        given = self._classes("background", "foreground")
        assert discover(files(_u8(values)), given=given) == {"background": 0, "foreground": white}

    def test_classes_called_by_number_are_these_numbers(self, files):
        given = self._classes("0", "3", "7")
        codec = find_codec(files(_u8([0, 3])), given=given)
        assert codec.values == ((0,), (3,), (7,))
        assert codec.classes is given

    def test_other_names_need_their_values(self, files):
        given = self._classes("road", "water")
        with pytest.raises(ConfigError, match="the model has the classes road, water, and nothing") as caught:
            find_codec(files(_u8([0, 1])), given=given)
        assert caught.value.problems[0].hint == "data.classes={road: 0, ...}"
        codec = find_codec(files(_u8([0, 1])), classes={"water": 0, "road": 1}, given=given)
        assert codec.values == ((1,), (0,))

    def test_overlap_is_the_models(self, files):
        with pytest.raises(ConfigError, match="the model was trained with multilabel=true") as caught:
            find_codec(files(_u8([0, 1])), given=self._classes("vessel", multilabel=True))
        assert caught.value.problems[0].hint == "data.multilabel=true"


def test_given_classes_are_taken(files):
    codec = find_codec(files(_u8([0, 1])), classes={"a": 0, "b": [1, 2]}, ignore=[9])
    assert (codec.classes.names, codec.values, codec.ignored) == (("a", "b"), ((0,), (1, 2)), (9,))


def test_nearest_needs_a_table(files):
    with pytest.raises(ConfigError, match=r"data\.nearest_colour without data\.classes"):
        find_codec(files(_u8([0, 1])), nearest=True)


def test_folders_and_classes_have_the_same_names(files):
    found = files({"x": _u8([0, 1]), "y": _u8([1, 0])})
    with pytest.raises(ConfigError, match="there are folders of masks for x, y, and values for x, z") as caught:
        find_codec(found, classes={"x": 1, "z": 1}, multilabel=True)
    assert caught.value.problems[0].hint == "name each class as its folder"


@pytest.fixture
def coco(tmp_path):
    path = tmp_path / "instances_train.json"
    categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return CocoFile(path, tmp_path)


def test_categories_are_classes_beside_the_background(coco):
    assert find_codec(coco).classes.names == ("background", "cat", "dog")
    assert find_codec(coco, multilabel=True).classes.names == ("cat", "dog")
    given = MaskClasses(("background", "cat"), ((0, 0, 0), (1, 1, 1)))
    assert find_codec(coco, given=given).classes is given


@pytest.mark.parametrize("options", [{"classes": BINARY}, {"ignore": [1]}, {"nearest": True}])
def test_categories_have_no_values(coco, options):
    with pytest.raises(ConfigError, match="the classes of a COCO file are its categories") as caught:
        find_codec(coco, **options)
    (problem,) = caught.value.problems
    assert (problem.where, problem.hint) == (str(coco.annotations), "leave them out")


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("isbi-em", ("background", "foreground")),
        ("dsb2018-nuclei", ("background", "foreground")),
        ("dubai-aerial", ("0", "1", "2", "3", "4", "5")),
    ],
)
def test_real_masks_show_their_classes(data_folder, name, classes):
    assert find_codec(find_split(data_folder(name), "train")).classes.names == classes

"""Images and masks that belong together by name."""

import pytest
from PIL import Image

from densenet_suite.errors import DataError
from densenet_suite.segmentation.pairing import Pair, pair_folders, stays_inside, without_ending


@pytest.fixture
def touch(tmp_path):
    """Write small pictures."""

    def touch(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 3)).save(path)
        return tmp_path

    return touch


def _pair(root, mask_name="{stem}", multilabel=False):
    return pair_folders(root / "images", root / "masks", "train", mask_name=mask_name, multilabel=multilabel)


def test_a_mask_has_the_name_of_its_image_but_for_the_ending(touch):
    root = touch("images/b.jpg", "images/a.PNG", "masks/a.png", "masks/b.gif")
    found = _pair(root)
    assert found.pairs == (
        Pair(root / "images/a.PNG", (root / "masks/a.png",)),
        Pair(root / "images/b.jpg", (root / "masks/b.gif",)),
    )
    assert (found.where, found.layers, found.unlabelled, found.unused) == (root / "masks", (), (), ())


def test_folders_below_are_part_of_the_name(touch):
    root = touch("images/x/a.png", "images/y/a.png", "masks/x/a.png", "masks/y/a.png")
    assert [pair.masks[0].parent.name for pair in _pair(root).pairs] == ["x", "y"]


def test_a_mask_may_be_called_after_its_image(touch):
    root = touch("images/x/a.jpg", "masks/x/a_mask.png")
    assert _pair(root, "{stem}_mask").pairs == (Pair(root / "images/x/a.jpg", (root / "masks/x/a_mask.png",)),)


def test_one_folder_may_hold_both(touch):
    root = touch("a.jpg", "a_mask.png", "b.jpg", "b_mask.png", "c_mask.png")
    found = pair_folders(root, root, "train", mask_name="{stem}_mask")
    assert [(pair.image.name, pair.masks[0].name) for pair in found.pairs] == [
        ("a.jpg", "a_mask.png"),
        ("b.jpg", "b_mask.png"),
    ]
    assert [path.name for path in found.unused] == ["c_mask.png"]
    assert not found.unlabelled


def test_what_has_no_partner_is_kept_apart(touch):
    root = touch("images/a.png", "images/b.png", "masks/b.png", "masks/c.png")
    found = _pair(root)
    assert [path.name for path in found.unlabelled] == ["a.png"]
    assert [path.name for path in found.unused] == ["c.png"]
    assert found.missing() == "1 image has no mask: a.png"
    assert found.hint == f"masks were looked for in {root / 'masks'}, under the same names"


def test_many_images_without_mask_are_counted_and_the_first_named(touch):
    root = touch(*(f"images/{i}.png" for i in range(8)))
    found = _pair(root)
    assert found.missing() == "8 images have no mask: 0.png, 1.png, 2.png, 3.png, 4.png and 3 more"
    assert found.hint == "say where both are: data.train.images=... and data.train.masks=..."


def test_nothing_missing_is_nothing_to_say(touch):
    assert _pair(touch("images/a.png", "masks/a.png")).missing() == ""


def test_masks_that_are_called_otherwise_are_pointed_out(touch):
    found = _pair(touch("images/a.jpg", "images/b.jpg", "masks/a_mask.png", "masks/b_mask.png"))
    assert found.hint == "there is a_mask for a: data.mask_name={stem}_mask"


def test_folders_are_classes_where_classes_may_overlap(touch):
    root = touch("images/a.png", "masks/vessel/a.png", "masks/disc/a.png")
    found = _pair(root, multilabel=True)
    assert found.layers == ("disc", "vessel")
    assert found.pairs[0].masks == (root / "masks/disc/a.png", root / "masks/vessel/a.png")


def test_files_beside_the_folders_make_them_ordinary(touch):
    root = touch("images/a.png", "images/x/b.png", "masks/a.png", "masks/x/b.png")
    found = _pair(root, multilabel=True)
    assert found.layers == ()
    assert len(found.pairs) == 2


def test_an_image_needs_a_mask_of_every_class(touch):
    root = touch("images/a.png", "images/b.png", "masks/vessel/a.png", "masks/disc/a.png", "masks/disc/b.png")
    found = _pair(root, multilabel=True)
    assert [path.name for path in found.unlabelled] == ["b.png"]
    assert found.hint == "every image needs a mask in each of disc, vessel: all zeros where a class does not occur"


def test_two_images_of_one_name_are_refused(touch):
    root = touch("images/a.png", "images/a.jpg", "masks/a.png")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png have the same name but for the ending") as caught:
        _pair(root)
    (problem,) = caught.value.problems
    assert problem.where == str(root / "images")
    assert problem.hint == "pictures and masks are paired by name: take one away or give it another"


def test_hidden_files_and_others_are_no_part_of_it(touch):
    root = touch("images/a.png", "masks/a.png", "images/._a.png")
    (root / "images" / "notes.txt").write_text("")
    assert len(_pair(root).pairs) == 1
    assert not _pair(root).unlabelled


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a.png", True),
        ("x/../a.png", True),
        ("./x/a.png", True),
        ("..", False),
        ("x/../../a.png", False),
        ("..\\a.png", False),
        ("/etc/passwd", False),
        ("\\\\host\\a", False),
    ],
)
def test_names_in_a_dataset_stay_in_its_folder(name, inside):
    assert stays_inside(name) is inside


@pytest.mark.parametrize(("name", "stem"), [("a.png", "a"), ("a.b", "a.b"), ("x/a.b.TIF", "x/a.b"), ("a", "a")])
def test_only_the_endings_of_images_are_endings(name, stem):
    assert without_ending(name) == stem

"""Images with masks in sharded tars."""

import io

import numpy as np
import pytest
from PIL import Image

from densenet_suite.archives.writing import ArchiveWriter, write_index
from densenet_suite.errors import DataError
from densenet_suite.segmentation.layout import find_split


def _png(array):
    content = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(content, "PNG")
    return content.getvalue()


IMAGE, MASK = _png(np.zeros((3, 4, 3))), _png(np.eye(3, 4))


@pytest.fixture
def find(tmp_path):
    """Write samples into a tar, with an index of these classes or without, and find the split."""

    def split(samples, classes=None, **options):
        with ArchiveWriter(tmp_path, "train", 10**6) as writer:
            for key, files in samples.items():
                writer.add({f"{key}.{ending}": content for ending, content in files.items()})
        if classes:
            write_index(tmp_path, writer.archives, {name: i for i, name in enumerate(classes)})
        return find_split(tmp_path, "train", **options)

    return split


def test_images_are_paired_with_the_masks_of_their_samples(find):
    found = find({"a": {"png": IMAGE, "mask.png": MASK}, "b/c": {"jpg": IMAGE, "seg.png": MASK}, "d": {"png": IMAGE}})
    assert [(pair.image.name, [mask.name for mask in pair.masks]) for pair in found.pairs] == [
        ("a.png", ["a.mask.png"]),
        ("c.jpg", ["c.seg.png"]),
    ]
    assert [path.name for path in found.unlabelled] == ["d.png"]
    assert found.layers == ()


def test_a_mask_for_each_class_is_in_the_order_of_the_classes(find):
    masks = {f"mask-{i}.png": MASK for i in (10, 2, 0)}
    found = find({"a": {"png": IMAGE, **masks}}, ["one", "two", "three"], multilabel=True)
    assert [mask.name for mask in found.pairs[0].masks] == ["a.mask-0.png", "a.mask-2.png", "a.mask-10.png"]
    assert found.layers == ("one", "two", "three")


def test_samples_with_boxes_are_none_with_masks(find):
    assert find({"a": {"png": IMAGE, "json": b"{}"}}) is None


def test_samples_that_do_not_fit_together_are_refused(find, tmp_path):
    with pytest.raises(DataError, match="samples have 1 or 2 masks each"):
        find({"a": {"png": IMAGE, "mask.png": MASK}, "b": {"png": IMAGE, "mask-0.png": MASK, "mask-1.png": MASK}})
    with pytest.raises(DataError, match="samples have 2 masks, and the index has 3 classes"):
        find({"b": {"png": IMAGE, "mask-0.png": MASK, "mask-1.png": MASK}}, ["a", "b", "c"])

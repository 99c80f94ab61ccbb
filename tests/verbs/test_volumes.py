"""Volumes in the verbs of data: checked slice by slice, and converted to pictures."""

import shutil

import numpy as np
import pytest
import torch
from volume_files import case, patient, series, stored_as, write_nifti

from densenet_suite.errors import DataError
from densenet_suite.labelled_data import Reading
from densenet_suite.rasters import read_raster
from densenet_suite.segmentation.data import SegmentationData
from densenet_suite.segmentation.reading import read_scene
from densenet_suite.verbs.data_check import check_data
from densenet_suite.verbs.data_convert import convert_data
from densenet_suite.verbs.dataset import open_dataset


@pytest.fixture
def volumes(tmp_path):
    """Volumes of which one has slices that hold nothing at all."""
    root = tmp_path / "volumes"
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            case(root, name, split, image="LPI")
    case(root, "d", blank_from=6)
    return root


def findings_of(root, *overrides):
    return {(split, finding.check): finding for split, finding in check_data(root, overrides).findings}


def test_sound_volumes_have_no_problem(volumes):
    check = check_data(volumes)
    assert check.images == {"images": 4 * 12, "decoded": 4 * 12}
    assert not check.of("error")
    assert not check.of("warning")


def test_a_volume_that_is_in_two_splits_is_told(volumes):
    for kind in ("images", "masks"):
        shutil.copy(volumes / kind / "train" / "a.nii.gz", volumes / kind / "val" / "z.nii.gz")
    found = findings_of(volumes)["val", "image-in-two-splits"]
    assert found.count == 12
    assert "image z.nii.gz#axial-0 is the same picture as a.nii.gz#axial-0 of the train split" in found.examples[0]


def test_a_volume_that_is_cut_off_is_an_error(volumes):
    path = volumes / "images" / "val" / "c.nii.gz"
    path.write_bytes(path.read_bytes()[:-900])
    errors = [str(finding) for _, finding in check_data(volumes).of("error")]
    assert any("c.nii.gz" in error for error in errors)
    assert not any("does not exist" in error for error in errors)


def test_a_cache_changes_nothing_of_volumes_of_eight_bits(tmp_path):
    for name in "ab":
        case(tmp_path, name, dtype=np.uint8)
    plain, cached = (
        SegmentationData(tmp_path, crop=(16, 16), batch=2, workers=0, reading=reading, seed=1)
        for reading in (None, Reading(cache="ram"))
    )
    for one, other in zip(plain.train_dataloader(), cached.train_dataloader(), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)


@pytest.mark.parametrize("to", ["masks", "palette", "colours", "layers", "coco", "shards"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_slices_become_pictures_of_the_same_pixels(tmp_path, to, dtype):
    for split, name in (("train", "a.1"), ("train", "b"), ("val", "c")):
        case(tmp_path / "volumes", name, split, image="SAL", dtype=dtype)
    converted = convert_data(tmp_path / "volumes", out=tmp_path / "out", to=to)
    lost = {finding.check: finding.count for finding in converted.lost["train"]}
    assert lost.pop("volume-in-pictures") == 2
    assert lost == ({"picture-renamed": 12} if to == "shards" else {})  # a key ends at the first dot
    overrides = ["data.multilabel=true"] if to == "layers" else []
    source = open_dataset(tmp_path / "volumes").data
    made = open_dataset(tmp_path / "out", overrides, task="segmentation").data
    for split in ("train", "val"):
        pairs = list(zip(source.split(split).scenes, made.split(split).scenes, strict=True))
        names = [scene.path.name for _, scene in pairs]
        if to != "shards":
            assert names[7] == ("a.1-axial-007" if split == "train" else "c-axial-007") + (
                ".png" if dtype == np.uint8 else ".tif"
            )
        for theirs, ours in pairs:
            (image, mask), (written, decoded) = read_scene(theirs), read_scene(ours)
            np.testing.assert_array_equal(written, image)
            np.testing.assert_array_equal(decoded, np.stack([mask == 0, mask == 1]) if to == "layers" else mask)
    assert not check_data(tmp_path / "out", overrides, task="segmentation").of("error")


def test_pixels_without_data_stay_without_data(tmp_path):
    voxels, affine = stored_as(*patient(), "LPS")
    voxels[0, :, :] = -2000
    for name in ("one", "two"):
        series(tmp_path / "volumes" / "images" / "train" / name, voxels, affine, PixelPaddingValue=-2000)
        labels = stored_as((patient()[0] >= 100).astype(np.uint8), patient()[1], "RAS")
        write_nifti(tmp_path / "volumes" / "masks" / "train" / f"{name}.nii.gz", *labels)
    convert_data(tmp_path / "volumes", out=tmp_path / "out", to="masks")
    values, missing, record = read_raster(tmp_path / "out" / "images" / "train" / "one-axial-003.tif")
    assert record.dtype == "float32"
    assert missing is not None
    assert missing[:, 0].all()
    assert not missing[:, 1:].any()
    theirs, theirs_missing, _ = read_raster(tmp_path / "volumes" / "images" / "train" / "one#axial-3")
    np.testing.assert_array_equal(values, theirs)
    np.testing.assert_array_equal(missing, theirs_missing)


def test_volumes_of_several_bands_are_refused(tmp_path):
    voxels, affine = patient()
    for name in ("a", "b"):
        for channel in range(2):
            write_nifti(tmp_path / "set" / "imagesTr" / f"{name}_{channel:04d}.nii.gz", voxels + channel, affine)
        write_nifti(tmp_path / "set" / "labelsTr" / f"{name}.nii.gz", (voxels >= 100).astype(np.uint8), affine)
    with pytest.raises(DataError, match=r"2 bands of float32, which no picture holds .*a_0000.nii.gz"):
        convert_data(tmp_path / "set", out=tmp_path / "out", to="masks")
    assert not (tmp_path / "out").exists()

import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from volume_files import SECRETS, case, dicom_file, patient, series, stored_as, write_nifti

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.segmentation import reading, volume_pairs
from densenet_suite.segmentation.data import SegmentationData
from densenet_suite.segmentation.datasets import hold_out
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import find_split
from densenet_suite.segmentation.pairing import Pair, pair_folders
from densenet_suite.segmentation.reading import read_scene, read_segmentation
from densenet_suite.segmentation.volume_pairs import cut_volumes
from densenet_suite.volumes.scenes import find_scenes
from densenet_suite.volumes.voxels import file_of


def read(root, split="train"):
    files = find_split(root, split)
    return read_segmentation(split, files, find_codec(files))


def test_each_slice_is_a_scene_whose_mask_is_the_same_slice(tmp_path):
    found = read(case(case(tmp_path, "a"), "b.2", image="LPI", mask="SAL"))

    assert [path.name for path in found.paths[11:13]] == ["a.nii.gz#axial-11", "b.2.nii.gz#axial-0"]
    assert len(found) == 24
    assert found.classes.names == ("background", "foreground")
    for scene in found.scenes:
        image, mask = read_scene(scene)
        np.testing.assert_array_equal(mask, (image[:, :, 0] >= 100).astype(np.uint8))
    assert found.pixel_counts[:, 1].sum() == 2 * 4 * 9 * 7
    assert json.dumps(found.report())


def test_a_series_of_dicom_has_labels_in_nifti(tmp_path):
    voxels, affine = stored_as(*patient(), "LPS")
    for name in ("case.1", "case.2"):
        series(tmp_path / "images" / "train" / name, voxels, affine)
        labels = stored_as((patient()[0] >= 100).astype(np.uint8), patient()[1], "RAS")
        write_nifti(tmp_path / "masks" / "train" / f"{name}.nii.gz", *labels)

    found = read(tmp_path)
    assert len(found) == 24
    assert [path.name for path in found.paths[::12]] == ["case.1#axial-0", "case.2#axial-0"]
    for scene in found.scenes[:12]:
        image, mask = read_scene(scene)
        np.testing.assert_array_equal(mask, (image[:, :, 0] >= 100).astype(np.uint8))
    assert not any(text in json.dumps(found.report()) for text in SECRETS.values())


def test_a_dicom_picture_may_have_a_picture_for_a_mask(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (20, 30)).astype(np.uint16)
    for name in ("x1", "x2"):
        dicom_file(tmp_path / "images" / "train" / f"{name}.dcm", pixels, SeriesInstanceUID=f"1.{name[1]}")
        (tmp_path / "masks" / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels > 2000).astype(np.uint8)).save(tmp_path / "masks" / "train" / f"{name}.png")

    found = read(tmp_path)
    assert [path.name for path in found.paths] == ["x1.dcm", "x2.dcm"]
    image, mask = read_scene(found.scenes[0])
    np.testing.assert_array_equal(mask, image[:, :, 0] > 2000)


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_labels_on_another_grid_stop_the_run_and_both_are_named(tmp_path, change):
    case(case(tmp_path, "good"), "bad")
    path = tmp_path / "masks" / "train" / "bad.nii.gz"
    labels, affine = (patient()[0] > 0).astype(np.uint8), patient()[1].copy()
    affine[1, 3] += 3 * (change == "affine")
    write_nifti(path, labels[..., : 12 - (change == "shape")], affine)

    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert f"volume {tmp_path / 'images' / 'train' / 'bad.nii.gz'} and its labels {path}" in message
    assert ("12x20x16 and 11x20x16" if change == "shape" else "up to 3 mm apart: affines [[1.0, 0.0") in message
    assert "labels are never resampled" in message


def test_a_volume_that_cannot_be_read_and_a_picture_as_labels_are_errors(tmp_path):
    volume = write_nifti(tmp_path / "a.nii", *patient())
    (tmp_path / "bad.nii").write_bytes(b"no volume" * 50)
    Image.new("L", (16, 20)).save(tmp_path / "a.png")
    findings = Findings("here")

    pairs = [Pair(volume, (tmp_path / "a.png",)), Pair(tmp_path / "bad.nii", (volume,))]
    assert list(cut_volumes(pairs, findings)) == []
    assert [finding.check for finding in findings] == ["grid-differs", "volume-unusable"]
    assert "a.png are no grid of the same voxels: it is a picture" in str(next(iter(findings)))


def test_volumes_of_different_planes_are_warned_of(tmp_path):
    voxels, affine = patient()
    flat = write_nifti(tmp_path / "flat.nii", voxels, affine @ np.diag([1, 1, 3, 1]))
    side = write_nifti(tmp_path / "side.nii", voxels, affine @ np.diag([9, 1, 1, 1]))
    findings = Findings("here")

    assert len(list(cut_volumes([Pair(flat, (flat,)), Pair(side, (side,))], findings))) == 12 + 16
    assert str(next(iter(findings))).endswith("flat.nii is cut in axial slices, side.nii is cut in sagittal slices")


def test_packed_volumes_beyond_the_cache_are_warned_of(tmp_path, monkeypatch):
    packed = write_nifti(tmp_path / "a.nii.gz", *patient())
    plain = write_nifti(tmp_path / "b.nii", *patient())
    for limit, pair, warned in ((7679, Pair(packed, (plain,)), True), (7680, Pair(packed, (plain,)), False)):
        monkeypatch.setattr(volume_pairs.VOLUMES, "limit", limit)
        findings = Findings("here")
        list(cut_volumes([pair], findings))
        assert [finding.check for finding in findings] == ["volumes-packed"] * warned


def test_hold_out_keeps_the_slices_of_a_volume_together(tmp_path):
    for name in "abcdef":
        case(tmp_path, name, shape=(8, 14, 12))
    train, val = hold_out(read(tmp_path), 0.3)

    sides = [{file_of(path) for path in part.paths} for part in (train, val)]
    assert not sides[0] & sides[1]
    assert len(train) + len(val) == 6 * 12
    assert all(len(side) for side in sides)


def test_one_volume_alone_cannot_be_held_out(tmp_path):
    case(tmp_path, "only")

    with pytest.raises(
        DataError, match=r"all 12 training images are slices of one volume, only.nii.gz.*\n  hint: name"
    ):
        SegmentationData(tmp_path, (32, 32), 2).split("val")
    assert len(SegmentationData(tmp_path, (32, 32), 2, holdout=0).split("train")) == 12


def test_training_crops_come_from_slices_with_their_own_statistics(tmp_path):
    for name in "ab":
        case(tmp_path, name)
    data = SegmentationData(tmp_path, (32, 32), 4, workers=0, holdout=0)
    data.normalization = data.own_normalization

    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 1, 32, 32)
    voxels = np.concatenate([read_scene(scene)[0].ravel() for scene in data.split("train").scenes])
    assert data.normalization.mean == pytest.approx((voxels.mean(dtype=np.float64),))
    assert data.normalization.std == pytest.approx((voxels.std(dtype=np.float64),))
    assert set(np.unique(batch.masks)) <= {0, 1, 255}
    evaluated = next(iter(data.eval_dataloader("train")))
    assert evaluated.images.shape[1:] == (1, 20, 16)


def test_a_series_lies_in_a_folder_and_pictures_of_their_own_do_not(tmp_path):
    voxels, affine = stored_as(*patient(), "LPS")
    series(tmp_path / "images" / "site" / "case.01", voxels, affine)
    dicom_file(tmp_path / "images" / "IM.7", np.zeros((4, 4), np.uint8))
    write_nifti(tmp_path / "images" / "brain.nii.gz", *patient())
    for name in ("site/case.01.nii", "IM.7.nii.gz", "brain.nii"):
        write_nifti(tmp_path / "masks" / name, *patient())

    files = pair_folders(tmp_path / "images", tmp_path / "masks", "train")
    assert [pair.image.relative_to(tmp_path / "images").as_posix() for pair in files.pairs] == [
        "IM.7",
        "brain.nii.gz",
        "site/case.01",
    ]
    assert not files.unlabelled
    assert not files.unused
    write_nifti(tmp_path / "images" / "brain.nii", *patient())
    with pytest.raises(DataError, match=r"brain\.nii and brain\.nii\.gz have the same name but for the ending"):
        pair_folders(tmp_path / "images", tmp_path / "masks", "train")


def test_lists_of_names_choose_volumes(tmp_path):
    for name in "ab":
        case(tmp_path, name, split="")
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "val.txt").write_text("b.nii.gz\n")

    assert [pair.image.name for pair in find_split(tmp_path, "train").pairs] == ["a.nii.gz"]
    assert [pair.image.name for pair in find_split(tmp_path, "val").pairs] == ["b.nii.gz"]


def test_masks_are_read_with_many_threads_without_unpacking_twice(tmp_path, monkeypatch):
    case(tmp_path, "a")
    opened = []
    load = nibabel.arrayproxy.ArrayProxy.get_unscaled
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "get_unscaled", lambda self: opened.append(1) or load(self))

    assert len(read(tmp_path)) == 12
    assert len(opened) <= 1
    assert reading._READERS > 1


def nnunet(root, channels=2):
    voxels, affine = patient((8, 14, 4))
    for name in "ab":
        for channel in range(channels):
            write_nifti(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", voxels + 1000 * channel, affine)
        write_nifti(root / "labelsTr" / f"{name}.nii.gz", (voxels >= 100).astype(np.uint8), affine)
    return root


def test_the_channels_of_nnunet_are_bands_of_one_volume(tmp_path):
    found = read(nnunet(tmp_path))

    assert [path.name for path in found.paths[::4]] == ["a_0000.nii.gz#axial-0", "b_0000.nii.gz#axial-0"]
    image, mask = read_scene(found.scenes[2])
    np.testing.assert_array_equal(image[..., 1], image[..., 0] + 1000)
    np.testing.assert_array_equal(mask, image[..., 0] >= 100)
    assert {scene.bands for scene in found.scenes} == {2}
    assert find_split(tmp_path, "val") is None
    assert [path.name for path in find_scenes(tmp_path / "imagesTr")] == ["a_0000.nii.gz", "b_0000.nii.gz"]


def test_elsewhere_a_number_behind_the_name_is_no_channel(tmp_path):
    for name in ("scan_0000", "scan_0001"):
        case(tmp_path, name)
    assert [pair.image.name for pair in find_split(tmp_path, "train").pairs] == ["scan_0000.nii.gz", "scan_0001.nii.gz"]


def test_channels_of_different_grids_are_refused(tmp_path):
    voxels, affine = patient((8, 14, 4))
    write_nifti(nnunet(tmp_path) / "imagesTr" / "a_0001.nii.gz", voxels, affine @ np.diag([1, 1, 1.2, 1]))

    with pytest.raises(
        DataError, match=r"a_0001\.nii\.gz is no grid of the same voxels(.|\n)*registered and resampled"
    ):
        read(tmp_path)

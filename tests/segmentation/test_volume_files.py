"""Acceptance: a predicted mask goes back into a NIfTI with the same affine, and lies where the object is."""

import gzip

import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from volume_files import SECRETS, patient, read_back, series, stored_as, tilted, write_nifti

from densenet_suite.errors import DataError
from densenet_suite.preprocess import Normalization, Preprocess
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.prediction import SegmentationPredictor
from densenet_suite.segmentation.prediction_files import save_segmentations
from densenet_suite.segmentation.structures import IGNORE, MaskClasses
from densenet_suite.volumes.voxels import slice_path

CLASSES = MaskClasses(("air", "body", "nodule"), ((0, 0, 0), (0, 0, 255), (255, 0, 0)))


class Thresholds(Segmenter):
    """Says air below 50, body up to 200, nodule above: whatever is painted is found where it lies."""

    def __init__(self, classes=CLASSES):
        nn.Module.__init__(self)
        self.classes = classes
        self.preprocess = Preprocess(Normalization((0.0,), (1.0,), 1.0))

    @property
    def stride(self):
        return 32

    def forward(self, images):
        x = images.float()
        if self.classes.multilabel:
            return torch.cat([x - 50, x - 200], 1)
        return torch.cat([50 - x, torch.minimum(x - 50, 200 - x), x - 200], 1) * 10


def predict(paths, out, outputs=("masks",), model=None):
    return list(save_segmentations(SegmentationPredictor(model or Thresholds())(paths), out, outputs))


def places(labels, affine, label):
    """The centres of all voxels of a label, in millimetres, sorted."""
    found = np.argwhere(labels == label) @ affine[:3, :3].T + affine[:3, 3]
    return found[np.lexsort(found.T.round(3))]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR", "SAL"])
@pytest.mark.parametrize("degrees", [0, 25])
@pytest.mark.parametrize("spacing", [(1.0, 1.5, 2.0), (4.0, 1.0, 1.0)])
def test_an_object_is_found_at_the_same_place_in_the_world(tmp_path, codes, degrees, spacing):
    voxels, affine = patient(spacing=spacing)
    affine = tilted(affine, degrees)
    source = write_nifti(tmp_path / "case.nii.gz", *stored_as(voxels, affine, codes))

    predict([source], tmp_path / "out")

    labels, grid = read_back(tmp_path / "out" / "masks" / "case.nii.gz")
    given = nibabel.load(source)
    np.testing.assert_array_equal(grid, given.affine)
    assert labels.shape == given.shape
    assert nibabel.aff2axcodes(grid) == tuple(codes)
    np.testing.assert_array_equal(labels, np.digitize(given.get_fdata(), [50, 200]))
    for label, values in ((1, voxels == 100), (2, voxels == 300)):
        np.testing.assert_allclose(places(labels, grid, label), places(values, affine, True), atol=1e-3)
    assert np.unique(labels).tolist() == [0, 1, 2]


@pytest.mark.parametrize("degrees", [0, 25])
def test_a_series_of_dicom_gets_a_nifti_at_the_same_place_in_the_world(tmp_path, degrees):
    voxels, affine = patient()
    affine = tilted(affine, degrees)
    stored, grid = stored_as(voxels, affine, "LPS")
    order = np.random.default_rng(0).permutation(12)
    folder = series(tmp_path / "case.1", stored, grid, order=order, RescaleIntercept=-20, RescaleSlope=2)

    # values are 2 v - 20: body 180, nodule 580
    predict([folder], tmp_path / "out")

    labels, found = read_back(tmp_path / "out" / "masks" / "case.1.nii.gz")
    np.testing.assert_allclose(found, grid, atol=1e-4)
    np.testing.assert_array_equal(labels, np.digitize(stored, [50, 200]))
    for label, values in ((1, voxels == 100), (2, voxels == 300)):
        np.testing.assert_allclose(places(labels, found, label), places(values, affine, True), atol=1e-3)
    content = gzip.decompress((tmp_path / "out" / "masks" / "case.1.nii.gz").read_bytes())
    everything = content + (tmp_path / "out" / "predictions.csv").read_bytes()
    assert not any(text.encode() in everything for text in SECRETS.values())


def test_probabilities_overlays_and_a_row_for_each_slice_are_written(tmp_path):
    source = write_nifti(tmp_path / "case.nii", *stored_as(*patient(), "LPI"))

    scenes = predict([source], tmp_path / "out", ("masks", "overlays", "probabilities", "uncertainty"))

    labels, grid = read_back(tmp_path / "out" / "masks" / "case.nii.gz")
    probabilities, same = read_back(tmp_path / "out" / "probabilities" / "case.nii.gz")
    assert probabilities.shape == (*labels.shape, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities.argmax(-1), labels)
    np.testing.assert_array_equal(grid, same)
    assert np.isnan(read_back(tmp_path / "out" / "uncertainty" / "case.nii.gz")[0]).all()  # a single tile
    assert len(list((tmp_path / "out" / "overlays" / "case").glob("axial-0*.jpg"))) == 12
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 13 == len(scenes) + 1
    assert rows[1].startswith(f"{source}#axial-0,20,16,")
    for label, name in enumerate(CLASSES.names):
        column = rows[0].split(",").index(f"pixels of {name}")
        assert sum(int(row.split(",")[column]) for row in rows[1:]) == (labels == label).sum()


def test_overlapping_classes_are_a_fourth_axis(tmp_path):
    source = write_nifti(tmp_path / "case.nii", *patient())
    both = MaskClasses(("body", "nodule"), ((0, 0, 255), (255, 0, 0)), multilabel=True)

    predict([source], tmp_path / "out", model=Thresholds(both))

    labels, _ = read_back(tmp_path / "out" / "masks" / "case.nii.gz")
    np.testing.assert_array_equal(labels, np.stack([patient()[0] >= 50, patient()[0] >= 200], -1))


def test_what_holds_nothing_and_slices_that_were_not_asked_for_are_255(tmp_path):
    voxels, affine = patient()
    fractions = voxels.astype(np.float32)
    fractions[0, 0, 4] = np.nan
    source = write_nifti(tmp_path / "case.nii", fractions, affine)

    predict([slice_path(source, "axial", 4)], tmp_path / "out")

    labels, _ = read_back(tmp_path / "out" / "masks" / "case.nii.gz")
    assert labels[0, 0, 4] == IGNORE
    assert (labels[..., 4] == IGNORE).sum() == 1
    assert (np.delete(labels, 4, axis=2) == IGNORE).all()


def test_volumes_of_one_name_do_not_overwrite_each_other(tmp_path):
    paths = [write_nifti(tmp_path / folder / "t1.nii.gz", *patient()) for folder in "ab"]

    predict(paths, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["t1-2.nii.gz", "t1.nii.gz"]


@pytest.mark.parametrize("last", [True, False])
def test_a_volume_damaged_further_down_leaves_no_file_and_others_are_written(tmp_path, last):
    stored, grid = stored_as(*patient(), "LPS")
    bad = series(tmp_path / ("z" if last else "a"), stored, grid)
    good = write_nifti(tmp_path / "good.nii.gz", *patient())
    whole = (bad / "IM0006.dcm").read_bytes()
    (bad / "IM0006.dcm").write_bytes(whole[:-40])

    with pytest.raises(DataError, match=r"IM0006\.dcm"):
        predict(sorted([bad, good]), tmp_path / "out", ("masks",))
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["good.nii.gz"]
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + 12 + 6


def test_a_file_that_cannot_be_opened_does_not_harm_the_volume_before_it(tmp_path):
    good = write_nifti(tmp_path / "good.nii.gz", *patient())
    (tmp_path / "text.nii").write_bytes(b"no volume" * 99)

    with pytest.raises(DataError, match=r"text\.nii"):
        predict([good, tmp_path / "text.nii"], tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "good.nii.gz").is_file()


def test_a_fault_of_the_source_within_a_volume_leaves_no_half_of_it(tmp_path):
    good = write_nifti(tmp_path / "good.nii.gz", *patient())

    def stops():
        for i, scene in enumerate(SegmentationPredictor(Thresholds())([good])):
            if i == 5:
                raise RuntimeError("out of memory")
            yield scene

    with pytest.raises(RuntimeError, match="out of memory"):
        list(save_segmentations(stops(), tmp_path / "out", ("masks",)))
    assert not (tmp_path / "out" / "masks").exists()
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 6

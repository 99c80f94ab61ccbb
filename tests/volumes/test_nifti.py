import gzip
import sys

import nibabel
import numpy as np
import pytest
from volume_files import SECRETS, patient, read_back, stored_as, write_nifti

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.rasters import open_raster, read_raster
from densenet_suite.volumes import cache as volume_cache
from densenet_suite.volumes import nifti
from densenet_suite.volumes.nifti import NiftiVolume
from densenet_suite.volumes.scenes import open_volume
from densenet_suite.volumes.voxels import slice_path


def axial(path, index):
    return read_raster(slice_path(path, "axial", index))[0]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR"])
def test_a_slice_is_what_nibabel_reads_turned_as_a_viewer_shows_it(tmp_path, ending, codes):
    voxels, affine = stored_as(*patient(), codes)
    path = write_nifti(tmp_path / f"case{ending}", voxels, affine)
    expected = stored_as(*patient(), "SPL")[0]

    for i in (0, 4):
        values, missing, record = read_raster(slice_path(path, "axial", i))
        np.testing.assert_array_equal(values[:, :, 0], expected[i])
        assert values.dtype == np.float32
        assert missing is None
        assert (record.height, record.width, record.bands, record.dtype) == (*expected.shape[1:], 1, "int16")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_values_are_scaled_by_slope_and_intercept(tmp_path, ending):
    voxels, affine = patient()
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / f"ct{ending}")
    path = tmp_path / f"ct{ending}"
    expected = stored_as(nibabel.load(path).get_fdata(), affine, "SPL")[0]

    np.testing.assert_allclose(axial(path, 4)[:, :, 0], expected[4], atol=1e-3)
    assert open_volume(path).dtype == "float32"


def test_bytes_stay_bytes_and_what_is_not_finite_is_missing(tmp_path):
    voxels, affine = patient()
    eight = write_nifti(tmp_path / "eight.nii.gz", (voxels // 2).astype(np.uint8), affine)
    fractions = voxels.astype(np.float32)
    fractions[0, 0, 0] = np.nan

    assert axial(eight, 0).dtype == np.uint8
    values, missing, _ = read_raster(slice_path(write_nifti(tmp_path / "f.nii", fractions, affine), "axial", 0))
    assert np.argwhere(missing).tolist() == [[19, 15]]  # right and back: below on the left
    assert values[19, 15, 0] == 0


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_fourth_axis_is_bands(tmp_path, ending):
    voxels, affine = patient()
    path = write_nifti(tmp_path / f"mr{ending}", np.stack([voxels, 2 * voxels], -1), affine)

    values = axial(path, 4)
    assert values.shape == (20, 16, 2)
    np.testing.assert_array_equal(values[..., 1], 2 * values[..., 0])


def test_a_file_of_one_slice_is_a_picture_and_of_several_needs_a_number(tmp_path):
    voxels, affine = patient()
    one = write_nifti(tmp_path / "one.nii", voxels[:, :, 4:5], affine)
    many = write_nifti(tmp_path / "many.nii", voxels, affine)

    np.testing.assert_array_equal(read_raster(one)[0], axial(many, 4))
    with pytest.raises(DataError, match=r"has 12 slices and nothing says which .*\n  hint: many\.nii#axial-6 is one"):
        open_raster(many)
    with pytest.raises(DataError, match="has 12 axial slices, numbered from 0"):
        open_raster(slice_path(many, "axial", 12))


def test_a_packed_volume_is_unpacked_once(tmp_path, monkeypatch):
    voxels, affine = patient()
    monkeypatch.setattr(nifti, "VOLUMES", volume_cache.VolumeCache())
    path = write_nifti(tmp_path / "case.nii.gz", voxels, affine)
    unpacked = []
    monkeypatch.setattr(NiftiVolume, "_unpack", lambda self: unpacked.append(self.path) or np.zeros((16, 20, 12, 1)))

    for i in range(12):
        axial(path, i)
    assert unpacked == [path]


def test_a_damaged_volume_is_told_as_such(tmp_path):
    voxels, affine = patient()
    whole = write_nifti(tmp_path / "whole.nii", voxels, affine).read_bytes()
    packed = gzip.compress(np.random.default_rng(0).bytes(20000))
    damages = {
        "short.nii": (whole[:-100], "speaks of 7,680 bytes of voxels, and the file has not so many"),
        "empty.nii.gz": (b"", "damaged: "),
        "text.nii": (b"<html>not found</html>" * 40, "damaged: ImageFileError"),
        "cut.nii.gz": (gzip.compress(whole)[:-60], "damaged: "),
        "noise.nii.gz": (packed, "damaged: ImageFileError"),
    }
    for name, (content, message) in damages.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            axial(path, 3)
    with pytest.raises(DataError, match=r"volume does not exist  \(.*none\.nii\)"):
        open_volume(tmp_path / "none.nii")


def test_a_header_that_promises_too_much_is_refused_before_memory_is_asked_for(tmp_path, monkeypatch):
    header = nibabel.Nifti1Header()
    header.set_data_shape((32000, 32000, 32000))
    header.set_data_dtype(np.float64)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 1000))
    monkeypatch.setattr(nifti, "_MAX_BYTES", 1000)
    large = write_nifti(tmp_path / "large.nii.gz", *patient())

    with pytest.raises(DataError, match="speaks of 262,144,000,000,000 bytes"):
        open_volume(tmp_path / "bomb.nii.gz")
    with pytest.raises(DataError, match=r"7,680 bytes, the limit for a packed one is 1,000 .*\n  hint: .*gunzip"):
        open_volume(large)


def test_colours_and_further_axes_are_refused(tmp_path):
    affine = np.eye(4)
    colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    write_nifti(tmp_path / "rgb.nii", colours, affine)
    write_nifti(tmp_path / "complex.nii", np.zeros((4, 4, 4), np.complex64), affine)
    write_nifti(tmp_path / "five.nii", np.zeros((4, 4, 4, 1, 3), np.float32), affine)

    for name, what in (("rgb", "are colours"), ("complex", "are complex64"), ("five", "has 5 axes")):
        with pytest.raises(DataError, match=what):
            open_volume(tmp_path / f"{name}.nii")


def test_a_volume_without_nibabel_names_the_extra(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "case.nii", *patient())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setattr("densenet_suite.volumes.scenes.is_installed", lambda package: package != "nibabel")

    with pytest.raises(MissingExtraError, match=r"densenet-suite\[medical\]"):
        open_volume(path)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("code", [1, 2, 4])
def test_what_is_written_has_the_geometry_of_its_source_and_none_of_its_texts(tmp_path, kind, code):
    voxels, affine = stored_as(*patient(), "LPI")
    image = kind(voxels, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = SECRETS["PatientName"].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRETS["PatientID"].encode()))
    nibabel.save(image, tmp_path / "in.nii")
    volume = open_volume(tmp_path / "in.nii")
    labels = (voxels > 0).astype(np.uint8)

    nifti.write_nifti(tmp_path / "out.nii.gz", labels, volume.grid, volume.header)

    found, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "in.nii")
    np.testing.assert_array_equal(read_back(tmp_path / "out.nii.gz")[0], labels)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, source.affine)
    for read in ("get_sform", "get_qform"):
        ours, theirs = (getattr(each, read)(coded=True) for each in (found, source))
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1] == theirs[1]
    assert found.header.get_zooms() == source.header.get_zooms()
    assert found.header.get_xyzt_units() == source.header.get_xyzt_units()
    assert type(found.header) is type(source.header)
    content = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert not any(text.encode() in content for text in SECRETS.values())

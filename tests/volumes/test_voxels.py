from pathlib import Path

import nibabel
import numpy as np
import pytest
from volume_files import patient, stored_as, tilted

from densenet_suite.errors import DataError
from densenet_suite.volumes.voxels import (
    VoxelGrid,
    check_grid,
    differences,
    ending_of,
    file_of,
    parse_slice,
    slice_path,
)

ORDERS = ["RAS", "LPI", "LAS", "PSR", "SAL", "IRP"]


def grid_of(codes="RAS", spacing=(1.0, 1.5, 2.0)):
    voxels, affine = stored_as(*patient(spacing=spacing), codes)
    return voxels, VoxelGrid(voxels.shape, affine)


def cut(voxels, grid, plane):
    turn = grid.turn(plane)
    turned = voxels.transpose(turn.axes)
    return turned[tuple(slice(None, None, -1 if back else 1) for back in turn.backwards)]


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [
        ((0.3, 0.3, 3.0), "axial"),
        ((0.3, 3.0, 0.3), "coronal"),
        ((3.0, 0.3, 0.3), "sagittal"),
        ((1.0, 1.0, 1.0), "axial"),
        ((1.2, 1.0, 1.0), "axial"),
        ((3.0, 3.0, 0.5), "axial"),
    ],
)
@pytest.mark.parametrize("codes", ORDERS)
def test_a_volume_is_cut_across_its_thick_axis_or_from_feet_to_head(spacing, plane, codes):
    assert grid_of(codes, spacing)[1].plane == plane


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("codes", ORDERS)
def test_slices_look_alike_in_whatever_order_voxels_are_stored(codes, plane):
    voxels, grid = grid_of(codes)
    # by nibabel: in this order of axes slices, rows and columns run as a viewer shows them
    order = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}[plane]
    expected = stored_as(patient()[0], patient()[1], order)[0]

    np.testing.assert_array_equal(cut(voxels, grid, plane), expected)
    assert (grid.slices(plane), *grid.size(plane)) == expected.shape
    np.testing.assert_array_equal(grid.to_voxels(expected, plane), voxels)
    np.testing.assert_allclose(grid.turned(plane).affine, stored_as(*patient(), order)[1], atol=1e-12)


@pytest.mark.parametrize("degrees", [5, 20, 40, -40])
def test_oblique_axes_count_as_those_they_are_nearest_to(degrees):
    _, affine = patient()
    for codes in ORDERS:
        voxels, stored = stored_as(patient()[0], tilted(affine, degrees), codes)
        grid = VoxelGrid(voxels.shape, stored)
        assert nibabel.aff2axcodes(grid.turned("axial").affine) == ("S", "P", "L")
        np.testing.assert_allclose(sorted(grid.spacing), [1, 1.5, 2])


def test_the_path_of_a_slice_holds_its_volume_plane_and_number():
    path = slice_path(Path("a/case01.nii.gz"), "axial", 17)

    assert path == Path("a/case01.nii.gz#axial-17")
    assert parse_slice(path) == (Path("a/case01.nii.gz"), "axial", 17)
    assert file_of(path) == Path("a/case01.nii.gz")
    for name in ("photo#3.jpg", "case#axial-x", "case01.nii.gz"):
        assert parse_slice(Path(name)) is None
        assert file_of(Path(name)) == Path(name)


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.nii.gz", ".nii.gz"), ("A.NII.GZ", ".nii.gz"), ("a.b.nii", ".nii"), ("a.gz", ".gz"), ("a", "")],
)
def test_nii_gz_is_one_ending(name, ending):
    assert ending_of(Path(name)) == ending


@pytest.mark.parametrize("codes", ORDERS)
def test_the_order_in_which_voxels_are_stored_makes_no_difference_between_grids(codes):
    assert differences(grid_of()[1], grid_of(codes)[1], "axial") is None


def test_grids_that_differ_are_told_apart():
    one = grid_of()[1]
    shifted, larger = one.affine.copy(), one.affine.copy()
    shifted[0, 3] += 0.4
    larger[2, 2] *= 1.05

    assert "up to 0.4 mm apart" in differences(one, VoxelGrid(one.shape, shifted), "axial")
    assert "mm apart" in differences(one, VoxelGrid(one.shape, larger), "axial")
    assert differences(one, VoxelGrid((16, 20, 11), one.affine), "axial").startswith("12x20x16 and 11x20x16 voxels")
    shifted[0, 3] -= 0.39
    assert differences(one, VoxelGrid(one.shape, shifted), "axial") is None


def test_a_header_without_a_place_or_voxels_is_refused(tmp_path):
    for affine in (np.full((4, 4), np.nan), np.diag([1.0, 0, 1, 1])):
        with pytest.raises(DataError, match=r"affine is not one.*\(brain\.nii\)\n  hint: "):
            check_grid((2, 2, 2), affine, Path("brain.nii"))
    with pytest.raises(DataError, match=r"has the shape \(2, 0, 2\): there is no voxel"):
        check_grid((2, 0, 2), np.eye(4), Path("brain.nii"))

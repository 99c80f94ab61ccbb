import io
import logging
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from volume_files import SECRETS, dicom_file, patient, series, stored_as, tilted, write_nifti

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.rasters import open_raster, read_raster
from densenet_suite.volumes.dicom import is_dicom
from densenet_suite.volumes.scenes import find_scenes, open_volume, slice_paths
from densenet_suite.volumes.voxels import differences, slice_path


@pytest.fixture
def scan():
    """Voxels (column, row, slice) as a scanner stores an axial series, and their affine."""
    return stored_as(*patient(), "LPS")


def picture(folder, index=0):
    return read_raster(slice_paths(folder)[index])[0]


@pytest.mark.parametrize("codes", ["LPS", "LIP", "PIL", "RPS"])
@pytest.mark.parametrize("degrees", [0, 15])
def test_a_series_and_the_same_scan_as_nifti_are_the_same_pictures(tmp_path, codes, degrees):
    voxels, affine = patient(spacing=(1.0, 1.0, 1.0))
    stored, grid = stored_as(voxels, tilted(affine, degrees), codes)
    folder = series(tmp_path / "series", stored, grid)
    nifti = write_nifti(tmp_path / "same.nii.gz", voxels, tilted(affine, degrees))

    ours, theirs = open_volume(folder), open_volume(nifti)
    assert differences(ours.grid, theirs.grid, "axial") is None
    for i in (0, 3, 8):
        one, other = (read_raster(slice_path(path, "axial", i))[0] for path in (folder, nifti))
        np.testing.assert_array_equal(one, other)


def test_slices_are_ordered_by_their_place_and_not_by_their_names(tmp_path, scan):
    voxels, affine = scan
    order = np.random.default_rng(0).permutation(12)
    folder = series(tmp_path / "case", voxels, affine, order=order)

    for i in range(12):
        np.testing.assert_array_equal(picture(folder, i)[:, :, 0], voxels[:, :, i].T)
    np.testing.assert_allclose(open_volume(folder).grid.affine, affine)


def test_values_are_rescaled_slice_by_slice_and_the_window_is_kept(tmp_path, scan):
    voxels, affine = scan
    folder = series(tmp_path / "case", voxels, affine, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=[40, 60],
                    WindowWidth=[400, 80])  # fmt: skip
    volume = open_volume(folder)

    np.testing.assert_array_equal(picture(folder, 4)[:, :, 0], voxels[:, :, 4].T * 2.0 - 1024)
    assert volume.window == (40, 400)
    assert volume.dtype == "float32"
    assert volume.grid.spacing == pytest.approx((1, 1.5, 2))


@pytest.mark.parametrize(
    ("pixels", "fields", "expected"),
    [
        (np.array([[0, 100, 255]], np.uint8), {}, [255, 155, 0]),
        (np.array([[0, 100, 4095]], np.uint16), {"BitsStored": 12, "HighBit": 11}, [4095, 3995, 0]),
        (np.array([[-5, 0, 7]], np.int16), {}, [4, -1, -8]),
        (np.array([[0, 100]], np.uint16), {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 2, "RescaleIntercept": -10},
         [8180, 7980]),
    ],
)  # fmt: skip
def test_where_low_values_are_white_they_are_mirrored(tmp_path, pixels, fields, expected):
    path = dicom_file(tmp_path / "x.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **fields)

    values = read_raster(path)[0]
    assert values[0, :, 0].tolist() == expected
    shown = dicom_file(tmp_path / "w.dcm", pixels, PhotometricInterpretation="MONOCHROME1",
                       **{**fields, "WindowCenter": float(expected[-1]), "WindowWidth": 5})  # fmt: skip
    ends = expected[0] + float(pixels[0, 0]) * fields.get("RescaleSlope", 1) + fields.get("RescaleIntercept", 0)
    assert open_volume(shown).window == (ends - expected[-1], 5)
    assert values.dtype == (np.uint8 if pixels.dtype == np.uint8 else np.float32)


def test_padding_holds_nothing(tmp_path, scan):
    voxels, affine = scan
    folder = series(tmp_path / "case", voxels, affine, PixelPaddingValue=0)
    limits = dicom_file(tmp_path / "x.dcm", np.array([[0, 3, 5, 9]], np.uint16), PixelPaddingValue=3,
                        PixelPaddingRangeLimit=5)  # fmt: skip

    missing = read_raster(slice_paths(folder)[4])[1]
    np.testing.assert_array_equal(missing, voxels[:, :, 4].T == 0)
    assert read_raster(limits)[1].tolist() == [[False, True, True, False]]
    # across the stack, which is read whole
    across = read_raster(slice_path(folder, "coronal", 4))[1]
    np.testing.assert_array_equal(across, voxels[:, 4, ::-1].T == 0)


def test_a_file_of_colours_is_a_picture_of_three_bands(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)

    values, missing, record = read_raster(dicom_file(tmp_path / "us.dcm", pixels))
    np.testing.assert_array_equal(values, pixels)
    assert (missing, record.bands, record.dtype) == (None, 3, "uint8")


def test_frames_without_a_place_keep_their_order(tmp_path):
    film = np.arange(4 * 3 * 5, dtype=np.uint8).reshape(4, 3, 5)
    path = dicom_file(tmp_path / "film.dcm", film, SliceThickness=None)

    assert [part.name for part in slice_paths(path)] == [f"film.dcm#frame-{i}" for i in range(4)]
    for i in range(4):
        np.testing.assert_array_equal(picture(path, i)[:, :, 0], film[i])


def test_a_file_of_many_placed_frames_is_a_volume(tmp_path, scan):
    voxels, affine = scan
    order = [3, 0, 2, 1]

    def item(**fields):
        dataset = pydicom.Dataset()
        for name, value in fields.items():
            setattr(dataset, name, value)
        return dataset

    lps = np.diag([-1, -1, 1, 1]) @ affine
    own = [
        item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[float(x) for x in (lps @ [0, 0, k, 1])[:3]])]))
        for k in order
    ]
    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[1.5, 1], SliceThickness=2)]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=3, RescaleIntercept=1)]),
    )
    frames = np.stack([voxels[:, :, k].T for k in order])
    path = dicom_file(
        tmp_path / "enhanced.dcm",
        frames,
        PerFrameFunctionalGroupsSequence=Sequence(own),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )

    np.testing.assert_allclose(open_volume(path).grid.affine, affine)
    for i in range(4):
        np.testing.assert_array_equal(picture(path, i)[:, :, 0], voxels[:, :, i].T * 3.0 + 1)


def test_what_does_not_make_a_volume_is_refused(tmp_path, scan):
    voxels, affine = scan
    gap = series(tmp_path / "gap", voxels, affine)
    (gap / "IM0004.dcm").unlink()
    uneven = series(tmp_path / "uneven", voxels, affine)
    header = pydicom.dcmread(uneven / "IM0003.dcm")
    header.ImagePositionPatient = [*header.ImagePositionPatient[:2], float(header.ImagePositionPatient[2]) - 0.3]
    header.save_as(uneven / "IM0003.dcm")
    twice = series(tmp_path / "twice", voxels, affine)
    (twice / "copy.dcm").write_bytes((twice / "IM0005.dcm").read_bytes())
    mixed = series(tmp_path / "mixed", voxels, affine)
    dicom_file(mixed / "other.dcm", voxels[:, :, 0].T.copy(), SeriesInstanceUID="9.8.7")
    turned = series(tmp_path / "turned", voxels, affine)
    dicom_file(turned / "localizer.dcm", voxels[:, :, 0].T.copy(), ImagePositionPatient=[0, 0, 0],
               ImageOrientationPatient=[1, 0, 0, 0, 0, -1], PixelSpacing=[1.5, 1])  # fmt: skip
    smaller = series(tmp_path / "smaller", voxels, affine)
    dicom_file(smaller / "z.dcm", voxels[:-1, :, 0].T.copy(), PixelSpacing=[1.5, 1])
    lost = series(tmp_path / "lost", voxels, affine)
    dicom_file(lost / "z.dcm", voxels[:, :, 0].T.copy(), PixelSpacing=[1.5, 1])
    (tmp_path / "none").mkdir()

    for folder, message in {
        gap: r"slices are missing: IM0003\.dcm and IM0005\.dcm lie 4 mm apart, others 2  \(",
        uneven: r"unevenly spaced: IM000[234]\.dcm and IM000[345]\.dcm lie",
        twice: r"two slices lie at the same place: .* and .*\n  hint: a folder for each phase",
        mixed: r"folder holds 13 DICOM files of 2 series .*\n  hint: a folder for each series",
        turned: r"slices are turned differently: IM0000\.dcm and localizer\.dcm .*\n  hint: .*localizers",
        smaller: r"slices differ in size: IM0000\.dcm has \(20, 16\), z\.dcm has \(20, 15\)",
        lost: r"1 of 13 slices do not say where they lie",
        tmp_path / "none": "folder holds no DICOM files",
    }.items():
        with pytest.raises(DataError, match=message):
            open_volume(folder)


def test_compressed_pixels_are_read_where_pillow_or_pydicom_can(tmp_path):
    pixels = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16, np.ones((16, 16), np.uint8))
    run_lengths = pydicom.dcmread(dicom_file(tmp_path / "rle.dcm", pixels.astype(np.uint16)))
    run_lengths.compress(RLELossless)
    run_lengths.save_as(tmp_path / "rle.dcm")
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=95)
    jpeg = pydicom.dcmread(dicom_file(tmp_path / "jpeg.dcm", pixels))
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    jpeg.PixelData = encapsulate([packed.getvalue()])
    jpeg.save_as(tmp_path / "jpeg.dcm")
    jpeg.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    jpeg.save_as(tmp_path / "lossless.dcm")

    np.testing.assert_array_equal(read_raster(tmp_path / "rle.dcm")[0][:, :, 0], pixels)
    np.testing.assert_allclose(read_raster(tmp_path / "jpeg.dcm")[0][:, :, 0].astype(int), pixels, atol=8)
    with pytest.raises(DataError, match=r"cannot be unpacked: .* JPEG Lossless.*\(.*lossless\.dcm\)\n  hint: dcmdjpeg"):
        read_raster(tmp_path / "lossless.dcm")


def test_what_is_no_picture_is_refused(tmp_path, scan):
    pixels = np.zeros((4, 4), np.uint8)
    files = {
        "holds no picture: rows, columns and bits are None, 4, 8": {"Rows": None},
        r"segmentation objects are not read .*\n  hint": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
        "numbers of a palette": {"PhotometricInterpretation": "PALETTE COLOR"},
        "a look-up table gives a meaning": {"ModalityLUTSequence": Sequence([pydicom.Dataset()])},
        "not a finite number": {"RescaleSlope": "1e400"},
        "frames, the limit is": {"NumberOfFrames": 10**6},
    }
    for i, (message, fields) in enumerate(files.items()):
        path = dicom_file(tmp_path / f"{i}.dcm", pixels, **fields)
        with pytest.raises(DataError, match=message):
            open_volume(path)
    with pytest.raises(DataError, match=r"is deflated as a whole .*\n  hint: dcmconv"):
        open_volume(dicom_file(tmp_path / "d.dcm", pixels, syntax=DeflatedExplicitVRLittleEndian))


def test_a_damaged_file_is_told_without_what_it_holds(tmp_path, caplog, recwarn):
    whole = dicom_file(tmp_path / "whole.dcm", np.zeros((64, 64), np.uint16), WindowCenter=None).read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole[:-500])
    (tmp_path / "text.dcm").write_bytes(b"Doe^Jane" * 100)
    name = whole.index(b"Doe^Jane")
    (tmp_path / "wild.dcm").write_bytes(whole[: name - 2] + b"\xff\xfe" + whole[name:])
    (tmp_path / "head.dcm").write_bytes(whole[: name + 4])

    for file in ("short", "text", "wild", "head"):
        with caplog.at_level(logging.DEBUG, logger="densenet_suite"), pytest.raises(DataError) as caught:
            read_raster(tmp_path / f"{file}.dcm")
        assert f"{file}.dcm" in str(caught.value)
        assert "Doe" not in str(caught.value)
        assert caught.value.__cause__ is None
    assert "Doe" not in caplog.text
    assert not recwarn.list
    with pytest.raises(DataError, match="does not exist"):
        open_raster(tmp_path / "none.dcm")


def test_nothing_of_the_patient_is_kept_in_memory(tmp_path, scan):
    folder = series(tmp_path / "case", *scan)

    kept = repr(vars(open_volume(folder)))
    assert "IM0000.dcm" in kept
    assert not any(text in kept for text in SECRETS.values())


def test_files_are_known_by_ending_or_first_bytes(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    for name in ("a.dcm", "IM0001", "1.2.840.113", "b.DCM"):
        assert is_dicom(dicom_file(tmp_path / name, pixels, syntax=ImplicitVRLittleEndian)), name
    (tmp_path / "README").write_text("no picture" * 50)
    (tmp_path / "list.1").write_text("")
    for name in ("README", "list.1", "none.dcm", "notes.txt"):
        assert not is_dicom(tmp_path / name), name


def test_a_folder_means_its_pictures_volumes_and_series(tmp_path, scan):
    voxels, affine = scan
    series(tmp_path / "set" / "case", voxels, affine)
    for i in range(2):
        dicom_file(tmp_path / "set" / "xrays" / f"{i}.dcm", np.zeros((4, 4), np.uint8), SeriesInstanceUID=f"1.{i}")
    write_nifti(tmp_path / "set" / "brain.nii.gz", voxels, affine)
    Image.new("L", (4, 4)).save(tmp_path / "set" / "photo.png")

    found = [path.relative_to(tmp_path / "set").as_posix() for path in find_scenes(tmp_path / "set")]
    assert found == ["brain.nii.gz", "case", "photo.png", "xrays/0.dcm", "xrays/1.dcm"]
    assert find_scenes(tmp_path / "set" / "case") == [tmp_path / "set" / "case"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        find_scenes(tmp_path / "empty")


def test_a_series_without_pydicom_names_the_extra(tmp_path, scan, monkeypatch):
    folder = series(tmp_path / "case", *scan)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("densenet_suite.volumes.scenes.is_installed", lambda package: package != "pydicom")

    for ask in (open_volume, find_scenes):
        with pytest.raises(MissingExtraError, match=r"densenet-suite\[medical\]"):
            ask(folder)

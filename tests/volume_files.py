"""Small volumes for tests: NIfTI in any orientation, and DICOM series of any kind."""

from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRETS = {"PatientName": "Doe^Jane", "PatientID": "4711-secret", "PatientBirthDate": "19700101"}


def patient(shape=(16, 20, 12), spacing=(1.0, 1.5, 2.0)):
    """A block that is another in each direction, in voxels (R, A, S), and the affine of its grid."""
    voxels = np.zeros(shape, np.int16)
    voxels[2:6, 3:12, 2:9] = 100
    voxels[3, 10, 3:5] = 300
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-10, -20, 30)
    return voxels, affine


def stored_as(voxels, affine, codes):
    """The same voxels in another order: codes such as "LPI" or "SRA"."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = nibabel.apply_orientation(voxels, turn)
    return turned, affine @ inv_ornt_aff(turn, voxels.shape)


def tilted(affine, degrees):
    """The grid turned around the axis from right to left, and a little around the other two."""
    a, b = np.deg2rad([degrees, degrees / 3])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = affine.copy()
    turned[:3] = about_x @ about_z @ affine[:3]
    return turned


def write_nifti(path: Path, voxels, affine, kind=nibabel.Nifti1Image, code=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(voxels, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    nibabel.save(image, path)
    return path


def case(root, name, split="train", image="RAS", mask="RAS", shape=(16, 20, 12), dtype=np.int16, blank_from=None):
    """Write a volume and its labels, each stored in an order of its own, into a dataset; upper slices may be blank."""
    voxels, affine = patient(shape)
    rng = np.random.default_rng(list(name.encode()))
    noisy = (voxels + rng.integers(0, 9, voxels.shape)).clip(0, 250).astype(dtype)
    if blank_from is not None:
        noisy[:, :, blank_from:] = voxels[:, :, blank_from:] = 0
    write_nifti(root / "images" / split / f"{name}.nii.gz", *stored_as(noisy, affine, image))
    labels = (voxels >= 100).astype(np.uint8)
    write_nifti(root / "masks" / split / f"{name}.nii.gz", *stored_as(labels, affine, mask))
    return root


def dicom_file(path: Path, pixels, syntax=ExplicitVRLittleEndian, **fields):
    """Write pixels [h w] or [h w 3]; fields as pydicom calls them, None to leave one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = fields.get("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = pixels.dtype.itemsize * 8
    frames = {"NumberOfFrames": len(pixels)} if pixels.ndim == 3 and pixels.shape[2] != 3 else {}
    height, width = pixels.shape[1:] if frames else pixels.shape[:2]
    colours = pixels.ndim == 3 and not frames
    values = {
        **{"SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID},
        **{"Rows": height, "Columns": width, "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1},
        **{"SamplesPerPixel": 3 if colours else 1, "PhotometricInterpretation": "RGB" if colours else "MONOCHROME2"},
        **({"PlanarConfiguration": 0} if colours else {}),
        **{"PixelRepresentation": int(pixels.dtype.kind == "i"), "SeriesInstanceUID": "1.2.3.4", "Modality": "CT"},
        **frames,
        **SECRETS,
        **fields,
    }
    for name, value in values.items():
        if value is not None:
            setattr(file, name, value)
    file.PixelData = pixels.tobytes()
    file.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, voxels, affine, order=None, **fields):
    """Write voxels (column, row, slice), whose affine is to (R, A, S), as a series; files are named in `order`."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(0))
    along = lps[:3, :3] / spacing
    order = range(voxels.shape[2]) if order is None else order
    for name, k in enumerate(order):
        place = {
            "ImagePositionPatient": [round(float(x), 6) for x in (lps @ [0, 0, k, 1])[:3]],
            "ImageOrientationPatient": [round(float(x), 8) for x in (*along[:, 0], *along[:, 1])],
            "PixelSpacing": [float(spacing[1]), float(spacing[0])],
            "SliceThickness": float(spacing[2]),
            "InstanceNumber": name + 1,
        }
        dicom_file(folder / f"IM{name:04d}.dcm", np.ascontiguousarray(voxels[:, :, k].T), **{**place, **fields})
    return folder


def read_back(path: Path):
    """Voxels and affine, as nibabel reads them."""
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine

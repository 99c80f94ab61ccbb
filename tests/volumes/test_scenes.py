from pathlib import Path

from densenet_suite.volumes.scenes import is_volume


def test_volumes_are_told_by_their_names_and_folders(tmp_path: Path) -> None:
    assert is_volume(Path("case.nii.gz"))
    assert is_volume(Path("case.nii#axial-3"))
    assert is_volume(tmp_path)
    assert not is_volume(Path("case.png"))


def test_a_name_that_no_disk_can_hold_is_no_volume() -> None:
    assert not is_volume(Path("masks") / ("x" * 5000))

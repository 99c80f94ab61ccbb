import subprocess
import sys

import pytest

from densenet_suite import ConfigError, list_detectors
from densenet_suite.detection.variants import DETECTORS, detector_spec


def test_the_table_needs_no_torch():
    code = "import sys, densenet_suite; densenet_suite.list_detectors(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_found_by_pattern():
    assert list_detectors("tf_efficientdet_lite*") == [
        f"tf_efficientdet_lite{i}" for i in ("0", "1", "2", "3", "3x", "4")
    ]
    assert "efficientdet_d7x" in list_detectors()


def test_an_unknown_detector_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown detector 'efficientdet_d00'(.|\n)*efficientdet_d0"):
        detector_spec("efficientdet_d00")


def test_a_name_like_no_other_points_to_the_list():
    with pytest.raises(ConfigError, match="densenet-suite models list"):
        detector_spec("#")


@pytest.mark.parametrize(("low", "high"), [(1, 7), (5, 5), (6, 4)])
def test_levels_that_are_no_pyramid_are_refused(low, high):
    with pytest.raises(ConfigError, match=f"levels {low} to {high} are no pyramid(.|\n)*from 2, 3 or 4"):
        detector_spec("efficientdet_d0").with_numbers(min_level=low, max_level=high)


def test_numbers_can_be_changed_and_the_table_stays():
    changed = detector_spec("efficientdet_d0").with_numbers(channels=32, cells=None, max_level=8)
    assert (changed.channels, changed.cells, changed.levels) == (32, 3, 6)
    assert (DETECTORS["efficientdet_d0"].channels, DETECTORS["efficientdet_d0"].levels) == (64, 5)

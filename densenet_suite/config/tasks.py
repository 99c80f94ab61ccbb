"""Every task and what a run of it can be told."""

from densenet_suite.config.detection import DetectionConfig
from densenet_suite.config.schema import Config
from densenet_suite.config.segmentation import SegmentationConfig

TASKS: dict[str, type[Config]] = {"detection": DetectionConfig, "segmentation": SegmentationConfig}

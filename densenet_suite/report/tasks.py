"""The report of every task."""

from densenet_suite.report.detection import DETECTION_REPORT
from densenet_suite.report.segmentation import SEGMENTATION_REPORT
from densenet_suite.report.task_report import TaskReport

REPORTS: dict[str, TaskReport] = {"detection": DETECTION_REPORT, "segmentation": SEGMENTATION_REPORT}

"""What a report needs to know of a task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SHOWN = 9  # pictures of a batch
PANEL = 480  # largest side of one picture in a sheet, in pixels


@dataclass(frozen=True)
class TaskReport:
    """The parts of a report that differ from task to task.

    Attributes:
        write: fills the folder of an evaluation; called with the folder, the Lightning module and the split.
        draw_batch: draws a training batch; called with the batch and the Lightning module.
        shown: scores that stand large at the top.
        columns: of per_class.csv, shown after the class: first its size, then scores.
        figures: of the evaluation's folder, as (title, file name).
    """

    write: Callable[[Path, Any, Any], None]
    draw_batch: Callable[[Any, Any], Array]
    shown: tuple[str, ...]
    columns: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]

"""Small detectors, and datasets with the objects that a test wants."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from densenet_suite import EfficientDet, create_detector
from densenet_suite.detection.variants import DetectorSpec, detector_spec

TINY = detector_spec("efficientdet_d0").with_numbers(channels=16, cells=1, repeats=1, max_level=5)
TINY_BACKBONE = "efficientnet(width=0.25, depth=0.25)"


def tiny_detector(classes: int = 3, spec: DetectorSpec = TINY, **options: Any) -> EfficientDet:
    """Create a detector; the check of its backbone is spared the checks of shapes, which make it five times slower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        return create_detector(spec, classes, **{"backbone": TINY_BACKBONE, **options})


def write_coco(
    root: Path,
    pictures: Sequence[tuple[tuple[int, int], Sequence[dict[str, Any]]]],
    split: str = "train",
    categories: Sequence[int] = (1, 2, 3),
) -> Path:
    """Write pictures of (height, width) with annotations, which need a bbox and may say the rest."""
    (root / "images" / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (size, objects) in enumerate(pictures, 1):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        for given in objects:
            area = given["bbox"][2] * given["bbox"][3]
            rest = {"category_id": categories[0], "area": area, "iscrowd": 0, **given}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **rest})
    names = [{"id": key, "name": f"class {key}"} for key in categories]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root

"""The table of COCO's classes against torchvision's and an official file."""

import json

from torchvision.models.detection import RetinaNet_ResNet50_FPN_V2_Weights

from densenet_suite.detection.coco import COCO_IDS, COCO_NAMES, COCO_ROWS


def test_names_and_ids_are_those_of_an_official_file(data_folder):
    path = data_folder("coco-official") / "annotations" / "instances_train2017.json"
    listed = {entry["id"]: entry["name"] for entry in json.loads(path.read_text())["categories"]}
    ours = dict(zip(COCO_IDS, COCO_NAMES, strict=True))
    assert listed.items() <= ours.items()


def test_names_and_ids_are_those_of_torchvision():
    theirs = RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
    used = {i: name for i, name in enumerate(theirs) if name not in ("N/A", "__background__")}
    assert dict(zip(COCO_IDS, COCO_NAMES, strict=True)) == used


def test_a_row_of_published_weights_is_the_category_with_the_next_id():
    assert len(COCO_ROWS) == 90
    assert [COCO_ROWS[i - 1] for i in COCO_IDS] == list(COCO_NAMES)
    assert sum(name.startswith("unused") for name in COCO_ROWS) == 10
    assert len(set(COCO_ROWS)) == 90

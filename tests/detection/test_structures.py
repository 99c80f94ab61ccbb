import pytest
import torch

from densenet_suite.detection.structures import ClassTable, DetectionBatch, RawDetections


def batch():
    return DetectionBatch(
        images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        boxes=torch.zeros(2, 1, 4),
        labels=torch.tensor([[0], [-1]]),
        indices=torch.arange(2),
        sizes=torch.tensor([[8, 8], [8, 8]]),
        scales=torch.ones(2, 2),
    )


def test_names_without_ids_are_numbered_from_one():
    assert ClassTable.numbered(["cat", "dog"]) == ClassTable(("cat", "dog"), (1, 2))


@pytest.mark.parametrize(("names", "ids"), [(("a", "b"), (1,)), (("a", "b"), (4, 4))])
def test_every_class_needs_an_id_of_its_own(names, ids):
    with pytest.raises(ValueError, match=r"2 names for the ids .*: one id of its own for each"):
        ClassTable(names, ids)


def test_a_batch_is_as_long_as_its_images():
    assert len(batch()) == 2


def test_a_batch_moves_whole_and_keeps_pixels_as_bytes():
    moved = batch().to("meta")
    assert {moved.images.device.type, moved.boxes.device.type, moved.scales.device.type} == {"meta"}
    assert moved.images.dtype == torch.uint8


def test_raw_detections_without_deltas_decode_to_their_anchors():
    anchors = torch.tensor([[0.0, 0.0, 8.0, 16.0], [-4.0, 2.0, 12.0, 6.0]])
    raw = RawDetections(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), anchors)
    assert torch.equal(raw.boxes()[0], anchors)

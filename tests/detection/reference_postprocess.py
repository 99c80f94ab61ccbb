"""Hard suppression without shortcuts: every pair is sorted, every candidate is suppressed."""

import torch
from torch import Tensor
from torchvision.ops import nms

from densenet_suite.detection.boxes import clip_boxes, decode_boxes
from densenet_suite.detection.postprocess import Postprocess, separate_classes
from densenet_suite.detection.structures import Detections, RawDetections


def reference_postprocess(options: Postprocess, raw: RawDetections, sizes: Tensor | None = None) -> list[Detections]:
    threshold = torch.logit(torch.tensor(options.score_threshold, dtype=torch.float64)).item()
    classes = raw.class_logits.shape[2]
    results = []
    for image, logits in enumerate(raw.class_logits.float().flatten(1)):
        values, pairs = logits.sort(descending=True, stable=True)
        values = values[values > threshold][: options.max_candidates]
        pairs = pairs[: len(values)]
        anchors, labels, scores = pairs // classes, pairs % classes, values.sigmoid()
        boxes = decode_boxes(raw.box_deltas[image, anchors], raw.anchors[anchors])
        if sizes is not None:
            boxes = clip_boxes(boxes, *sizes[image].tolist())
            left = (boxes[:, 2:] > boxes[:, :2]).all(1)
            boxes, scores, labels = boxes[left], scores[left], labels[left]
        keep = nms(separate_classes(boxes, labels), scores.double(), options.iou_threshold)[: options.max_detections]
        results.append(Detections(boxes[keep], scores[keep], labels[keep]))
    return results

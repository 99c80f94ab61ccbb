"""The choice of the final detections as ONNX operators: what `Postprocess` with hard suppression does, in any runtime.

The operator NonMaxSuppression computes overlaps in single precision and `Postprocess` in double, so two boxes whose
overlap is the threshold to seven digits may fare differently. All else is equal, the order of equal scores included.
"""

import onnx
import torch
from onnx import compose, parser

from densenet_suite.detection.postprocess import Postprocess

OUTPUTS = {
    "boxes": ("batch", "detections", "xyxy"),
    "scores": ("batch", "detections"),
    "labels": ("batch", "detections"),
    "counts": ("batch",),
}

# As in `Postprocess`, pairs of anchor and class are only looked at for the anchors whose best class is among the best.
# TopK puts the first of equal values first; sorting by place before and after the suppression keeps it so.
_CHOICE = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
choice (float[{batch}, anchors, 4] candidates, float[{batch}, anchors, classes] logits)
  => (float[{batch}, {detections}, 4] boxes, float[{batch}, {detections}] scores,
      int64[{batch}, {detections}] labels, int64[{batch}] counts)
<int64[1] most = {{{candidates}}}, int64[1] wanted = {{{detections}}}, float[1] iou = {{{iou}}},
 float[1] threshold = {{{threshold}}}, float[1] never = {{-inf}}, float[1] zero = {{0.0}}, int64[1] none = {{-1}},
 int64[1] second = {{1}}, int64[1] third = {{2}}, int64[2] rows = {{0, -1}}, int64[2] ends = {{2, 2}},
 int64[3] swapped = {{0, 2, 1}}>
{{
  number = Shape <start = 1, end = 2> (logits)
  anchor_limit = Min (number, most)
  best = ReduceMax <keepdims = 0> (logits, third)
  best_logits, best_anchors = TopK (best, anchor_limit)
  places, order = TopK <largest = 0> (best_anchors, anchor_limit)
  index = Unsqueeze (places, third)
  chosen_boxes = GatherND <batch_dims = 1> (candidates, index)
  chosen_logits = GatherND <batch_dims = 1> (logits, index)

  pairs = Reshape (chosen_logits, rows)
  pair_number = Shape <start = 1, end = 2> (pairs)
  pair_limit = Min (pair_number, most)
  pair_logits, best_pairs = TopK (pairs, pair_limit)
  all_pairs = Shape (pairs)
  out_of_pairs = Expand (never, all_pairs)
  entering = ScatterElements <axis = 1> (out_of_pairs, best_pairs, pair_logits)

  top_left, bottom_right = Split <axis = 2> (chosen_boxes, ends)
  sides = Sub (bottom_right, top_left)
  shorter = ReduceMin <keepdims = 0> (sides, third)
  inside = Greater (shorter, zero)
  inside_column = Unsqueeze (inside, third)
  all_logits = Shape (chosen_logits)
  entering_logits = Reshape (entering, all_logits)
  judged = Where (inside_column, entering_logits, never)
  judged_by_class = Transpose <perm = [0, 2, 1]> (judged)
  kept = NonMaxSuppression (chosen_boxes, judged_by_class, wanted, iou, threshold)

  kept_places = Gather <axis = 1> (kept, swapped)
  kept_logits = GatherND (judged, kept_places)
  out_of_all = Expand (never, all_logits)
  remaining = ScatterND (out_of_all, kept_places, kept_logits)
  remaining_pairs = Reshape (remaining, rows)
  final_logits, final_pairs = TopK (remaining_pairs, wanted)
  found = Greater (final_logits, never)
  found_number = Cast <to = 7> (found)
  counts = ReduceSum <keepdims = 0> (found_number, second)
  scores = Sigmoid (final_logits)
  classes_number = Shape <start = 2, end = 3> (logits)
  final_labels = Mod (final_pairs, classes_number)
  labels = Where (found, final_labels, none)
  final_anchors = Div (final_pairs, classes_number)
  final_index = Unsqueeze (final_anchors, third)
  final_boxes = GatherND <batch_dims = 1> (chosen_boxes, final_index)
  found_column = Unsqueeze (found, third)
  boxes = Where (found_column, final_boxes, zero)
}}
"""


def with_suppression(model: onnx.ModelProto, postprocess: Postprocess) -> onnx.ModelProto:
    """Return a model of candidates and logits that also gives the final detections of each image, best first.

    These are `boxes` [b m 4], `scores` [b m], `labels` [b m] and `counts` [b], with as many rows as there may be
    detections; those beyond an image's count have score 0 and label -1.
    """
    threshold = torch.logit(torch.tensor(postprocess.score_threshold, dtype=torch.float64)).item()
    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    choice = parser.parse_model(
        _CHOICE.format(
            ir_version=model.ir_version,
            opset=model.opset_import[0].version,
            batch=batch.dim_value or "batch",
            detections=postprocess.max_detections,
            candidates=postprocess.max_candidates,
            iou=postprocess.iou_threshold,
            threshold=threshold,
        )
    )
    network = compose.add_prefix(model, "network/", rename_inputs=False, rename_outputs=False)
    links = [("candidates", "candidates"), ("logits", "logits")]
    return compose.merge_models(network, choice, links, outputs=[*OUTPUTS, "candidates", "logits"])

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from properties import repeatable, repeatable_in_part

from densenet_suite.detection.boxes import box_area, box_iou, clip_boxes, decode_boxes, encode_boxes


@st.composite
def boxes(draw, count=None, low=-50.0, high=500.0):
    """Boxes xyxy with sides from half a pixel to 200."""
    n = draw(st.integers(0, 12)) if count is None else count
    corners = draw(nps.arrays(np.float32, (n, 2), elements=st.floats(low, high, width=32)))
    sides = draw(nps.arrays(np.float32, (n, 2), elements=st.floats(0.5, 200, width=32)))
    return torch.from_numpy(np.concatenate([corners, corners + sides], 1))


EPS = torch.finfo(torch.float32).eps
ANY = st.floats(-(2**127), 2**127, width=32)
LENGTHS = st.just(0.0) | st.floats(2**-10, 1e6, width=32)  # the area of a shorter side would vanish


@st.composite
def boxes_of_any_size(draw):
    """Boxes anywhere, also without an area, of which some are equal or share sides."""
    corners = draw(st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)), max_size=3))
    sides = draw(st.lists(st.tuples(LENGTHS, LENGTHS), min_size=len(corners), max_size=len(corners)))
    corner, side = (np.array(pairs, np.float32).reshape(-1, 2) for pairs in (corners, sides))
    drawn = np.concatenate([corner, corner + side], 1)
    return torch.from_numpy(np.concatenate([drawn, drawn[:1], (drawn[:1] + drawn[-1:]) / 2]))


@repeatable
@given(boxes(2, -1e5, 1e5), boxes(2, -1e5, 1e5))
def test_decoding_undoes_encoding(targets, anchors):
    sizes = anchors[:, 2:] - anchors[:, :2]
    ratio = (targets[:, 2:] - targets[:, :2]) / sizes
    shift = encode_boxes(targets, anchors)[:, :2].abs()
    again = decode_boxes(encode_boxes(targets, anchors), anchors)
    reachable = (ratio < 60).all(1) & (shift < 9e3).all(1)
    # some thirty roundings, each of a number no larger than the farthest coordinate
    farthest = torch.maximum(targets.abs().amax(1), anchors.abs().amax(1))[:, None]
    assert ((again - targets).abs() <= 32 * EPS * farthest)[reachable].all()


@repeatable
@given(st.lists(st.tuples(ANY, ANY, ANY, ANY), max_size=4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_finite_deltas_decode_to_finite_boxes(deltas, dtype):
    rows = torch.tensor(deltas, dtype=torch.float32).reshape(-1, 4).to(dtype)
    decoded = decode_boxes(rows, torch.tensor([-300.0, -1e4, 1e5, 1e4]).expand(len(rows), 4))
    assert torch.isfinite(decoded).all()
    assert (decoded[:, :2] <= decoded[:, 2:]).all()


@repeatable
@given(boxes_of_any_size(), boxes(1, -1e5, 1e5))
def test_what_has_no_area_is_encoded_in_finite_numbers_too(a, anchor):
    assert torch.isfinite(encode_boxes(a, anchor.expand_as(a))).all()


@repeatable
@given(boxes_of_any_size(), boxes_of_any_size())
def test_overlaps_are_those_of_float64(a, b):
    overlap = box_iou(a, b)
    # fewer than eight roundings of numbers no larger than twice the union
    torch.testing.assert_close(overlap.double(), box_iou(a.double(), b.double()), rtol=8 * EPS, atol=0)
    assert torch.equal(overlap, box_iou(b, a).T)
    assert (overlap <= 1 + EPS).all()
    own = box_iou(a, a).diagonal()
    assert torch.equal(own, (box_area(a) > 0).float())


@repeatable_in_part(4)
@given(boxes(), boxes())
def test_overlaps_are_torchvisions(a, b):
    torch.testing.assert_close(box_iou(a, b), torchvision.ops.box_iou(a, b), rtol=1e-4, atol=1e-6)


@repeatable_in_part(4)
@given(boxes())
def test_areas_are_torchvisions(a):
    torch.testing.assert_close(box_area(a), torchvision.ops.box_area(a))


@repeatable_in_part(4)
@given(boxes(low=-300), st.integers(1, 200), st.integers(1, 200))
def test_clipping_is_torchvisions(a, height, width):
    expected = torchvision.ops.clip_boxes_to_image(a, (height, width))
    torch.testing.assert_close(clip_boxes(a, height, width), expected)


def test_boxes_without_an_area_overlap_nothing_and_give_no_nan():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert box_iou(point, point).item() == 0
    assert torch.isfinite(encode_boxes(point, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))).all()


def test_overlaps_of_a_batch_are_those_of_its_images():
    a, b = torch.rand(2, 3, 4), torch.rand(5, 4)
    a[..., 2:] += 1
    b[..., 2:] += 1
    torch.testing.assert_close(box_iou(a, b)[1], box_iou(a[1], b))


def test_a_box_that_needs_no_change_has_zero_deltas():
    anchors = torch.tensor([[10.0, 20.0, 50.0, 40.0]])
    assert encode_boxes(anchors, anchors).tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_deltas_are_dy_dx_dh_dw_in_units_of_the_anchor():
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    moved = torch.tensor([[5.0, 0.0, 15.0, 40.0]])  # half a width to the right, twice as high downwards
    expected = torch.tensor([[0.5, 0.5, float(np.log(2)), 0.0]])
    torch.testing.assert_close(encode_boxes(moved, anchor), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [1e4, -1e4, 3e38, -3e38])
def test_any_finite_delta_decodes_to_a_finite_box(value):
    anchors = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    assert torch.isfinite(decode_boxes(torch.tensor([[0.0, 0.0, value, value]]), anchors)).all()
    assert torch.isfinite(decode_boxes(torch.tensor([[value, value, 0.0, 0.0]]), anchors)).all()


def test_half_precision_deltas_decode_in_float32():
    deltas = torch.tensor([[0.25, 0.5, 0.0, 0.0]], dtype=torch.bfloat16)
    anchors = torch.tensor([[1000.0, 1000.0, 1010.0, 1010.0]])
    assert decode_boxes(deltas, anchors).tolist() == [[1005.0, 1002.5, 1015.0, 1012.5]]

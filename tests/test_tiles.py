import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.errors import ConfigError
from densenet_suite.tiles import TilePlan, Window, add_tile, blend_rows, gaussian_window


def noise(windows, tile, classes=3):
    """Probabilities that differ from tile to tile, and are the same for a tile whenever it is asked for."""
    made = []
    for window in windows:
        generator = torch.Generator().manual_seed(window.top * 10_007 + window.left)
        made.append(torch.randn(classes, *tile, generator=generator).softmax(0))
    return torch.stack(made)


def full_buffer(plan, classes=3):
    """The same average, with a buffer as large as the scene."""
    mean = torch.zeros(classes, *plan.scene)
    weight, spread = torch.zeros(plan.scene), torch.zeros(plan.scene)
    kernel = gaussian_window(plan.tile)
    for top in plan.tops:
        for window in plan.row(top):
            part = window.within(*plan.scene)
            here = (..., slice(top, top + part.height), slice(part.left, part.left + part.width))
            cut = (..., slice(0, part.height), slice(0, part.width))
            add_tile(mean[here], weight[here], spread[here], noise([window], plan.tile)[0][cut], kernel[cut])
    return mean, (spread / weight / classes).sqrt()


plans = st.builds(
    lambda scene, cells, overlap, multiple: (scene, tuple(n * multiple for n in cells), overlap, multiple),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.tuples(st.integers(2, 5), st.integers(2, 5)),
    st.integers(0, 7),
    st.sampled_from([8, 16]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plans)
def test_every_pixel_is_covered_and_every_neighbour_overlapped_from_origins_on_the_grid(numbers):
    scene, tile, overlap, multiple = numbers
    plan = TilePlan.cover(scene, tile, overlap, multiple)
    for size, side, asked, origins in zip(scene, plan.tile, tile, (plan.tops, plan.lefts), strict=True):
        steps = np.diff(origins)
        assert origins[0] == 0
        assert all(origin % multiple == 0 for origin in origins)
        assert (side == size and not len(steps)) if size <= asked else side == asked
        assert (steps > 0).all()
        assert (side - steps >= overlap).all()
        assert size <= origins[-1] + side < size + multiple
        assert not len(steps) or steps.max() - steps.min() <= multiple


def test_no_tile_more_than_the_overlap_asks_for():
    assert TilePlan.cover((512, 512), (256, 256), 0, 32).tops == (0, 256)
    assert TilePlan.cover((1000, 700), (256, 256), 64, 32).lefts == (0, 128, 288, 448)


def test_a_scene_that_fits_is_one_tile_of_its_own_size():
    plan = TilePlan.cover((33, 47), (64, 64), 16, 32)
    assert (plan.tile, plan.row(0), len(plan)) == ((33, 47), [Window(0, 0, 33, 47)], 1)


@pytest.mark.parametrize("overlap", [-1, 40, 64])
def test_an_overlap_that_leaves_no_step_is_refused(overlap):
    with pytest.raises(
        ConfigError, match=f"64x96 with an overlap of {overlap} cannot begin at multiples of 32"
    ) as caught:
        TilePlan.cover((500, 500), (64, 96), overlap, 32)
    assert "an overlap from 0 to 32" in caught.value.problems[0].hint


@settings(max_examples=25, deadline=None, derandomize=True)
@given(plans, st.integers(1, 3))
def test_streamed_rows_equal_the_whole_buffer_exactly(numbers, batch):
    plan = TilePlan.cover(*numbers)
    bands = list(blend_rows(plan, lambda windows: noise(windows, plan.tile), batch))
    mean, disagreement = full_buffer(plan)
    assert [band.top for band in bands] == np.cumsum([0, *(len(band.disagreement) for band in bands[:-1])]).tolist()
    assert torch.equal(torch.cat([band.probabilities for band in bands], 1), mean)
    assert torch.equal(torch.cat([band.disagreement for band in bands]), disagreement)


def test_the_blend_is_the_weighted_average_and_the_weighted_deviation():
    plan = TilePlan.cover((70, 90), (48, 48), 24, 8)
    weights, values = [], []
    for top in plan.tops:
        for window in plan.row(top):
            weight, value = np.zeros((70, 90)), np.zeros((3, 70, 90))
            part = window.within(70, 90)
            here = (..., slice(top, top + part.height), slice(part.left, part.left + part.width))
            weight[here] = gaussian_window(plan.tile).numpy()[: part.height, : part.width]
            value[here] = noise([window], plan.tile)[0].numpy()[:, : part.height, : part.width]
            weights.append(weight), values.append(value)
    weights = np.stack(weights)[:, None]
    mean = (weights * values).sum(0) / weights.sum(0)
    variance = (weights * (np.stack(values) - mean) ** 2).sum(0) / weights.sum(0)
    bands = list(blend_rows(plan, lambda windows: noise(windows, plan.tile)))
    np.testing.assert_allclose(np.concatenate([band.probabilities for band in bands], 1), mean, atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([band.disagreement for band in bands]), np.sqrt(variance.mean(0)), atol=1e-5
    )


def test_one_tile_is_left_as_it_is_and_agrees_with_itself():
    plan = TilePlan.cover((30, 90), (64, 64), 16, 32)
    (band,) = blend_rows(plan, lambda windows: noise(windows, plan.tile), 2)
    assert plan.lefts == (0, 32)
    assert torch.equal(band.probabilities[:, :, :32], noise(plan.row(0)[:1], plan.tile)[0][:, :, :32])
    assert torch.equal(band.disagreement > 0, plan.overlaps(0, 30))


def test_tiles_that_agree_have_no_disagreement_at_all():
    plan = TilePlan.cover((100, 100), (64, 64), 32, 8)
    for band in blend_rows(plan, lambda windows: torch.full((len(windows), 2, 64, 64), 0.3), 4):
        assert (band.disagreement == 0).all()
        assert (band.probabilities == 0.3).all()


def test_rows_come_before_the_tiles_below_are_asked_for():
    plan = TilePlan.cover((300, 64), (64, 64), 16, 16)
    asked = []
    bands = blend_rows(plan, lambda windows: asked.extend(windows) or noise(windows, plan.tile))
    next(bands)
    assert [window.top for window in asked] == [0]


def test_no_more_tiles_than_the_batch_are_asked_for_at_a_time():
    plan = TilePlan.cover((64, 300), (64, 64), 0, 16)
    asked = []
    list(blend_rows(plan, lambda windows: asked.append(len(windows)) or noise(windows, plan.tile), 2))
    assert asked == [2, 2, 1]


def test_overlaps_are_where_two_tiles_lie():
    plan = TilePlan.cover((100, 70), (64, 64), 16, 8)
    count = np.zeros((100, 70), int)
    for top in plan.tops:
        for window in plan.row(top):
            count[top : top + 64, window.left : window.left + 64] += 1
    for top, height in ((0, 100), (30, 40), (0, 1), (99, 1), (48, 16)):
        assert (plan.overlaps(top, height).numpy() == (count[top : top + height] > 1)).all()


def test_the_window_is_symmetric_highest_in_the_middle_and_nowhere_zero():
    window = gaussian_window((64, 96))
    assert torch.equal(window, window.flip(0, 1))
    assert window.max() == window[32, 48] > 0.98
    assert window.min() > 0
    np.testing.assert_allclose(
        window[31, 48 + 12] / window[31, 48], np.exp(-0.5 * (12.5**2 - 0.5**2) / 12**2), rtol=1e-5
    )

"""Which pictures a sample is made of."""

import numpy as np
import pytest

from densenet_suite.augment import AugmentPolicy
from densenet_suite.augment.mixing import Part, draw_mix
from densenet_suite.sampling import Stream, derive_seed

CANVAS = (64, 96)
ALL = AugmentPolicy(mosaic=1, mixup=1, copy_paste=1, cutout=1)


def _mix(policy=ALL, pictures=10, seed=0, epoch=0, index=3, canvas=CANVAS):
    return draw_mix(policy, pictures, canvas, seed, epoch, index)


def test_what_is_drawn_is_a_function_of_seed_epoch_and_index():
    assert _mix() == _mix()
    draws = {repr(_mix(seed=seed, epoch=epoch, index=index)) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)}
    assert len(draws) == 8


def test_without_partners_a_sample_is_its_picture():
    mix = _mix(AugmentPolicy())
    assert [part for part, _ in mix.parts] == [Part(3, derive_seed(0, Stream.SAMPLE, 0, 3))]
    assert mix.parts[0][1] == (0, 0, *CANVAS)
    assert (mix.through, mix.pasted, mix.erased) == (None, None, None)


@pytest.mark.parametrize("canvas", [CANVAS, (4, 4), (5, 301)])
def test_the_four_areas_of_a_mosaic_cover_the_canvas_once(canvas):
    for index in range(20):
        mix = _mix(index=index % 10, canvas=canvas, epoch=index)
        covered = np.zeros(canvas, int)
        for _, area in mix.parts:
            covered[area.slices] += 1
            assert min(area.height, area.width) >= 1
        assert len(mix.parts) == 4
        assert (covered == 1).all()


def test_the_sample_itself_is_in_its_mosaic_in_any_corner():
    corners = [_mix(index=3, epoch=epoch).parts[0] for epoch in range(80)]
    assert {part.index for part, _ in corners} == {3}
    assert len({(area.top > 0, area.left > 0) for _, area in corners}) == 4


def test_every_picture_is_a_partner_and_each_has_a_seed_of_its_own():
    mixes = [_mix(epoch=epoch) for epoch in range(60)]
    partners = [part for mix in mixes for part in (*(part for part, _ in mix.parts[1:]), mix.through, mix.pasted)]
    assert {part.index for part in partners} == set(range(10))
    assert len({part.seed for part in partners}) == len(partners)


@pytest.mark.parametrize(("key", "found"), [("mixup", "through"), ("copy_paste", "pasted"), ("cutout", "erased")])
def test_probabilities_are_kept(key, found):
    policy = AugmentPolicy(**{key: 0.3})
    share = np.mean([getattr(_mix(policy, epoch=epoch), found) is not None for epoch in range(600)])
    assert share == pytest.approx(0.3, abs=0.06)


def test_what_is_erased_is_a_fiftieth_to_a_fifth():
    shares = [
        area.height * area.width / (64 * 96) for epoch in range(200) if (area := _mix(epoch=epoch).erased) is not None
    ]
    assert len(shares) == 200
    assert 0.015 < min(shares) < 0.04
    assert 0.17 < max(shares) < 0.21


def test_a_set_of_one_picture_has_itself_for_a_partner():
    assert {part.index for part, _ in _mix(pictures=1, index=0).parts} == {0}

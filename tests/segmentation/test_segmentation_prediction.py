import numpy as np
import pytest
import rasterio
import torch
from peers import randomize
from PIL import Image
from torch import nn

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.preprocess import Normalization, Preprocess
from densenet_suite.rasters import Pixels
from densenet_suite.segmentation.build import create_segmenter
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.prediction import SegmentationPredictor
from densenet_suite.segmentation.scenes import plan_tiles, predict_image, segment_scene
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

UTM = rasterio.CRS.from_epsg(32631)
PLACE = rasterio.Affine(0.5, 0, 593_000, 0, -0.5, 5_747_000)
CLASSES = MaskClasses(("ground", "water", "roof"), ((0, 0, 0), (0, 0, 255), (255, 0, 0)))
LAYERS = MaskClasses(("road", "tree"), ((200, 0, 0), (0, 200, 0)), multilabel=True)


class Pointwise(Segmenter):
    """Looks at one pixel at a time, so that tiles cannot matter, and notes what it is shown."""

    def __init__(self, classes=CLASSES, bands=3, value_range=255.0):
        nn.Module.__init__(self)
        self.classes = classes
        self.preprocess = Preprocess(Normalization((0.5,) * bands, (0.25,) * bands, value_range))
        self.head = nn.Conv2d(bands, len(classes), 1)
        self.seen = []

    @property
    def stride(self):
        return 32

    def forward(self, images):
        self.seen.append(images)
        return self.head(self.preprocess(images))


class Places(Pointwise):
    """Sees its own tile and nothing else: what it says depends on the place in the tile."""

    def forward(self, images):
        ramp = torch.linspace(-3, 3, images.shape[-1]).expand(images.shape[0], 1, *images.shape[-2:])
        return super().forward(images) + torch.cat([ramp, -ramp, 0 * ramp], 1)


def noise(shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(1, high, shape).astype(dtype)


def picture(path, height=100, width=150):
    Image.fromarray(noise((height, width, 3))).save(path)
    return path


def geotiff(path, values, nodata=None):
    height, width, bands = values.shape
    options = {"crs": UTM, "transform": PLACE, "nodata": nodata}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=values.dtype, **options
    ) as file:
        file.write(values.transpose(2, 0, 1))
    return path


def direct(model, pixels):
    """What the model says about an image [h w c] in one piece."""
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    return (logits.sigmoid() if model.classes.multilabel else logits.softmax(1))[0].numpy()


@pytest.fixture(scope="module")
def network():
    """A whole segmenter without global pooling."""
    return randomize(create_segmenter("unet", classes=CLASSES, backbone="timm/resnet10t")).eval()


def test_the_middle_of_a_tile_on_the_grid_is_that_of_the_whole_scene(network):
    """A pixel sees 192 pixels around it; tiles that do not begin at multiples of the stride are another network."""
    pixels = noise((448, 640, 3))
    whole = direct(network, pixels)
    plan, _ = plan_tiles(network.stride, (448, 640), (448, 448), 192, 1.0)
    assert plan.lefts == (0, 192)
    for left in plan.lefts:
        middle = slice(192 if left else 0, None if left else 448 - 192)  # an edge of the scene is one of the whole, too
        tile = direct(network, np.ascontiguousarray(pixels[:, left : left + 448]))
        np.testing.assert_allclose(tile[..., middle], whole[..., left : left + 448][..., middle], atol=1e-5)
    beside = direct(network, np.ascontiguousarray(pixels[:, 187 : 187 + 448]))
    assert np.abs(beside - whole[..., 187 : 187 + 448])[..., 192:256].max() > 0.1


@pytest.mark.parametrize("multilabel", [False, True], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [(33, 47), (64, 200), (150, 130)])
def test_tiles_change_nothing_where_they_cannot_matter(size, multilabel):
    model = Pointwise(LAYERS if multilabel else CLASSES)
    pixels = noise((*size, 3))
    found = predict_image(model, pixels, (64, 64), 32, batch=3)
    np.testing.assert_allclose(found.numpy(), direct(model, pixels), atol=1e-6)


def test_a_scene_that_fits_goes_through_whole(network):
    pixels = noise((70, 50, 3))
    np.testing.assert_allclose(predict_image(network, pixels).numpy(), direct(network, pixels), atol=1e-5)


def test_tiles_are_of_one_size_and_mirrored_beyond_the_edge():
    model = Pointwise()
    pixels = noise((70, 90, 3))
    predict_image(model, pixels, (64, 64), 32, batch=4)
    assert {image.shape[-2:] for image in torch.cat(model.seen)} == {(64, 64)}
    corner = model.seen[-1][-1].permute(1, 2, 0).numpy()  # begins at 32, 32
    assert (corner == np.pad(pixels[32:, 32:], ((0, 26), (0, 6), (0, 0)), "reflect")).all()


def test_the_network_sees_the_scene_in_its_scale():
    model = Pointwise()
    smooth = np.add.outer(np.arange(200.0), np.arange(260.0))[..., None].repeat(3, 2).astype(np.uint8) // 2
    found = predict_image(model, smooth, (64, 64), 32, scale=0.5)
    assert {image.shape[-2:] for image in torch.cat(model.seen)} == {(64, 64)}
    assert found.shape == (3, 200, 260)
    assert np.abs(found.numpy() - direct(model, smooth)).mean() < 0.01


@pytest.mark.parametrize(("scale", "tops"), [(1.0, (0, 32, 64)), (0.5, (0, 64)), (2.0, (0, 16, 32, 48, 64, 80, 96))])
def test_tiles_begin_at_multiples_of_the_stride_as_the_network_sees_it(scale, tops):
    plan, seen = plan_tiles(32, (128, 20), (64, 64), 32, scale)
    assert plan.tops == tops[: len(plan.tops)]
    assert seen == (64, round(20 * scale))
    assert all(top * scale % 32 == 0 for top in plan.tops)


def test_a_tile_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ConfigError, match="tile side 100 is not a multiple of the model's stride 32") as caught:
        SegmentationPredictor(Pointwise(), (64, 100), 16)
    assert caught.value.problems[0].hint == "take 96"


def test_an_overlap_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="64x64 with an overlap of 48"):
        SegmentationPredictor(Pointwise(), (64, 64), 48)


def test_a_picture_gives_a_mask_and_probabilities_of_its_size(tmp_path):
    model = Pointwise()
    path = picture(tmp_path / "a.png")
    (found,) = SegmentationPredictor(model, (64, 64), 16)([path])
    expected = direct(model, noise((100, 150, 3)))
    assert (found.path, found.size) == (path, (100, 150))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert (found.mask == expected.argmax(0)).all()
    assert found.mask.dtype == np.uint8
    assert sum(found.summary.pixels.values()) == 100 * 150
    assert found.summary.pixels["water"] == (found.mask == 1).sum()


def test_overlapping_classes_have_a_layer_each(tmp_path):
    model = Pointwise(LAYERS)
    (found,) = SegmentationPredictor(model, (64, 64), 16)([picture(tmp_path / "a.png")])
    assert (found.mask == (found.probabilities >= 0.5)).all()
    assert found.summary.pixels == {"road": found.mask[0].sum(), "tree": found.mask[1].sum()}


def test_rows_come_from_the_top_and_make_up_the_scene(tmp_path):
    (found,) = SegmentationPredictor(Pointwise(), (64, 64), 16)([picture(tmp_path / "a.png", 200, 70)])
    rows = list(found.rows())
    assert len(rows) > 2
    assert [part.top for part in rows] == np.cumsum([0, *(len(part.mask) for part in rows[:-1])]).tolist()
    assert (np.concatenate([part.mask for part in rows]) == found.mask).all()


def test_memory_does_not_depend_on_the_height():
    """No more than a row of tiles is read before the rows that it finishes come."""
    model, read = Pointwise(), []

    def reader(window):
        read.append(window)
        return Pixels(np.zeros((window.height, window.width, 3), np.uint8), None)

    rows = segment_scene(model, reader, (10**6, 64), (64, 64), 16, 1.0, "cpu", 1)
    for _ in range(3):
        last = next(rows)
        assert last.probabilities.shape[1] <= 64
    assert max(window.top for window in read) == last.top
    rows.close()


def test_tiles_that_disagree_raise_the_seam_score(tmp_path):
    path = picture(tmp_path / "a.png")
    (agreeing,) = SegmentationPredictor(Pointwise(), (64, 64), 16)([path])
    (differing,) = SegmentationPredictor(Places(), (64, 64), 16)([path])
    assert agreeing.summary.seam_score < 1e-6
    assert differing.summary.seam_score > 0.05


def test_uncertainty_is_known_only_where_tiles_overlap(tmp_path):
    (found,) = SegmentationPredictor(Places(), (64, 64), 16)([picture(tmp_path / "a.png", 64, 90)])
    uncertainty = np.concatenate([rows.uncertainty for rows in found.rows()])
    assert np.isnan(uncertainty[:, :32]).all()
    assert (uncertainty[:, 32:64] > 0).all()
    (single,) = SegmentationPredictor(Places(), (64, 96), 16)([picture(tmp_path / "a.png", 64, 90)])
    assert single.summary.seam_score is None


def test_pixels_without_data_are_unknown_and_seen_as_the_mean(tmp_path):
    values = noise((100, 70, 3), np.int16, 4000)
    values[10:20, :50] = -1
    model = Pointwise(value_range=1.0)
    (found,) = SegmentationPredictor(model, (64, 64), 16)([geotiff(tmp_path / "a.tif", values, -1)])
    missing = values[..., 0] == -1
    assert ((found.mask == IGNORE) == missing).all()
    assert (np.isnan(found.probabilities).all(0) == missing).all()
    assert found.summary.unknown == 500
    assert (model.seen[0][0, :, 10:20, :50] == 0.5).all()


def test_tiles_without_data_do_not_reach_the_network(tmp_path):
    values = noise((200, 64, 3))
    values[:130] = 0
    model = Pointwise()
    (found,) = SegmentationPredictor(model, (64, 64), 0)([geotiff(tmp_path / "a.tif", values, 0)])
    assert (found.mask[:130] == IGNORE).all()
    assert (found.mask[130:] != IGNORE).all()
    assert sum(map(len, model.seen)) == 2  # of four


def test_a_scene_of_nothing_is_all_unknown(tmp_path):
    (found,) = SegmentationPredictor(Pointwise())([geotiff(tmp_path / "a.tif", np.zeros((9, 7, 3), np.uint8), 0)])
    assert (found.mask == IGNORE).all()
    assert found.summary == ({"ground": 0, "water": 0, "roof": 0}, 63, None)


def test_the_samples_are_segmented_in_their_own_depth_and_bands(data_folder):
    path = data_folder("geotiff-samples") / "images" / "rotterdam_4band_uint16.tif"
    model = Pointwise(bands=4, value_range=1.0)
    (found,) = SegmentationPredictor(model, (128, 128), 32)([path])
    with rasterio.open(path) as file:
        pixels = file.read().transpose(1, 2, 0).astype(np.float32)
    np.testing.assert_allclose(found.probabilities, direct(model, np.ascontiguousarray(pixels)), atol=1e-4)


def test_files_that_cannot_be_used_are_named_after_the_others(tmp_path):
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "e.png")]
    (tmp_path / "b.png").write_bytes(b"")
    geotiff(tmp_path / "c.tif", noise((9, 7, 4)))
    geotiff(tmp_path / "d.tif", noise((9, 7, 3), np.uint16))
    paths = [good[0], *(tmp_path / name for name in ("b.png", "c.tif", "d.tif")), good[1]]
    seen = []
    expected = r"is empty(.|\n)*b\.png(.|\n)*4 bands of uint8 where 3(.|\n)*uint16, this model takes 8 bits"
    with pytest.raises(DataError, match=expected):
        seen.extend(found.path for found in SegmentationPredictor(Pointwise(), (64, 64), 16)(paths))
    assert seen == good


def test_nothing_is_opened_before_it_is_asked_for(tmp_path):
    paths = (picture(tmp_path / "a.png") if i < 1 else pytest.fail("read ahead") for i in range(9))
    assert next(SegmentationPredictor(Pointwise(), (64, 64), 16)(paths)).path.name == "a.png"


def test_the_network_runs_when_it_is_asked_for_and_once(tmp_path):
    model = Pointwise()
    (found,) = SegmentationPredictor(model)([picture(tmp_path / "a.png")])
    assert model.seen == []
    assert found.mask is found.mask
    assert found.summary.unknown == 0
    assert len(model.seen) == 1


@pytest.mark.parametrize("classes", [CLASSES, LAYERS], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [(40, 60), (100, 150), (4100, 20)])
def test_a_drawing_has_the_colours_of_the_classes(tmp_path, size, classes):
    (found,) = SegmentationPredictor(Pointwise(classes))([picture(tmp_path / "a.png", *size)])
    drawn = found.draw()
    factor = max(1, 480 // max(size)) if max(size) < 2048 else 1 / 3
    assert drawn.width == np.ceil(size[1] * factor)
    assert drawn.height > size[0] * factor  # the legend is below
    assert tuple(classes.colours[1]) in {colour for _, colour in drawn.getcolors(1 << 24)}


def test_a_drawing_of_many_deep_bands_is_made_of_the_first_three(tmp_path):
    path = geotiff(tmp_path / "a.tif", noise((60, 80, 5), np.uint16, 4000))
    (found,) = SegmentationPredictor(Pointwise(bands=5, value_range=1.0))([path])
    assert found.draw().width == 480

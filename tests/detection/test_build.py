import shutil
from dataclasses import asdict, replace

import jaxtyping
import pytest
import torch
from peers import randomize
from scenes import TINY, TINY_BACKBONE, tiny_detector

from densenet_suite import ConfigError, create_detector
from densenet_suite.detection.build import load_model, save_detector
from densenet_suite.detection.coco import COCO_IDS, COCO_NAMES
from densenet_suite.detection.structures import ClassTable


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def create(*arguments, **options):
    return create_detector(TINY, *arguments, **{"backbone": TINY_BACKBONE, **options})


def outputs(model):
    images = torch.arange(3 * 64 * 96, dtype=torch.uint8).reshape(1, 3, 64, 96)
    with torch.no_grad():
        return model.eval()(images)


def test_the_classes_are_cocos_unless_told():
    assert create().classes == create(80).classes == ClassTable(COCO_NAMES, COCO_IDS)


def test_a_number_of_classes_alone_gives_them_numbers_for_names():
    assert create(2).classes == ClassTable(("class 1", "class 2"), (1, 2))


def test_ninety_classes_are_the_rows_of_published_weights():
    names = create(90).classes.names
    assert (names[0], names[11], names[17], len(names)) == ("person", "unused 12", "dog", 90)


@pytest.mark.parametrize("classes", [["cat", "dog"], ClassTable(("cat", "dog"), (1, 2))])
def test_names_travel_with_the_model(classes):
    assert create(2, classes=classes).classes == ClassTable(("cat", "dog"), (1, 2))


def test_a_number_that_contradicts_the_names_is_refused():
    with pytest.raises(ConfigError, match="num_classes is 3, and 2 classes are named"):
        create(3, classes=["cat", "dog"])


@pytest.mark.parametrize("number", [0, -1])
def test_no_classes_are_refused(number):
    with pytest.raises(ConfigError, match=f"num_classes is {number}, a detector needs at least 1"):
        create(number)


def test_an_unknown_backbone_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown backbone 'efficientnet_b33'(.|\n)*efficientnet_b3"):
        create(backbone="efficientnet_b33")


def test_a_missing_weight_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="weight file does not exist"):
        create(weights=tmp_path / "nothing.pth")


def test_a_folder_without_a_trained_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="run folder holds no trained model"):
        create(weights=tmp_path)


def test_a_detector_without_published_weights_says_which_have_some():
    with pytest.raises(
        ConfigError, match=r"no COCO weights are published(.|\n)*tf_efficientdet_d6 and tf_efficientdet_d7"
    ):
        create_detector("efficientdet_d6", weights="coco")


def test_a_row_of_ones_own_without_published_weights_asks_for_a_path():
    with pytest.raises(ConfigError, match=r"no COCO weights are published(.|\n)*give a path, or weights: imagenet"):
        create_detector(replace(TINY, url=None, backbone="efficientnet_l2"), weights="coco")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of PyTorch's hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_without_a_network_the_address_and_the_remedy_are_told(cache, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        ConfigError, match=r"no route to host .*efficientdet_d0-f3276ba8\.pth(.|\n)*give its path as weights"
    ):
        create_detector("efficientdet_d0", weights="coco")


def test_published_weights_are_fetched_once_and_checked_by_their_digest(cache, monkeypatch):
    published = randomize(create(80))
    asked = []

    def download(url, target, hash_prefix, progress):
        asked.append((url.rpartition("/")[2], hash_prefix))
        torch.save(published.state_dict(), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        model = create(weights="coco")
        torch.testing.assert_close(outputs(model), outputs(published))
    assert asked == [("efficientdet_d0-f3276ba8.pth", "f3276ba8")]


@pytest.mark.parametrize("options", [{}, {"in_channels": 4}, {"backbone": "timm/resnet10t"}])
def test_a_model_file_alone_gives_the_model_back(options, tmp_path):
    model = randomize(create(classes=ClassTable(("cat", "dog"), (7, 3)), **options))
    save_detector(tmp_path / "model.safetensors", model, (64, 96), {"run": "x"})
    again, card = load_model(tmp_path / "model.safetensors")
    images = torch.randint(0, 256, (1, options.get("in_channels", 3), 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model.eval()(images), rtol=0, atol=0)
    assert not again.training
    assert again.classes == model.classes
    assert again.preprocess.normalization == model.preprocess.normalization
    assert asdict(again.spec) == asdict(model.spec)
    assert (card["task"], card["input_size"], card["provenance"]) == ("detection", [64, 96], {"run": "x"})


def test_a_model_file_can_be_moved(tmp_path):
    save_detector(tmp_path / "model.safetensors", create(2), (64, 96))
    shutil.move(tmp_path / "model.safetensors", tmp_path / "other")
    shutil.copy(tmp_path / "other", tmp_path / "renamed.safetensors")
    assert len(load_model(tmp_path / "renamed.safetensors")[0].classes) == 2


def test_foreign_weights_are_no_model_file(tmp_path):
    torch.save(create(2).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ConfigError, match=r"not a model file of a detector(.|\n)*load through create_detector"):
        load_model(tmp_path / "plain.pth")


def test_a_model_that_nobody_can_rebuild_is_not_saved(tmp_path):
    model = create(2)
    model.backbone.card = None
    with pytest.raises(ConfigError, match=r"the detector's backbone has no card(.|\n)*create_backbone"):
        save_detector(tmp_path / "model.safetensors", model, (64, 96))
    assert not (tmp_path / "model.safetensors").exists()


def test_drop_path_is_the_rows_unless_the_backbone_is_another():
    assert tiny_detector(2, drop_path=0.3).backbone.spec.drop_path == 0.3
    row = create_detector(TINY.with_numbers(channels=8), 2)
    assert row.backbone.spec.drop_path == TINY.drop_path == 0.1


@pytest.mark.parametrize(
    ("name", "mean", "fill"),
    [
        ("tf_efficientdet_d0_ap", (0.5, 0.5, 0.5), (0, 0, 0)),
        ("tf_efficientdet_lite0", (0.5, 0.5, 0.5), (128, 128, 128)),
        ("efficientdet_d0", (0.485, 0.456, 0.406), (124, 116, 104)),
    ],
)
def test_pixel_statistics_are_those_of_the_published_weights(name, mean, fill):
    with torch.device("meta"):
        normalization = create_detector(name, 2).preprocess.normalization
    assert (normalization.mean, normalization.fill) == (mean, fill)


def test_bands_are_normalised_as_the_colours_they_are_taken_for():
    model = create_detector("efficientdet_d0", 2, in_channels=4, bands=["blue", "green", "red", "new"])
    assert model.preprocess.normalization.mean == pytest.approx((0.406, 0.456, 0.485, 0.449), abs=1e-6)

import shutil
from dataclasses import asdict

import jaxtyping
import pytest
import torch
from peers import randomize
from safetensors.torch import save_file
from segmenters import TINY_BACKBONE

from densenet_suite import ConfigError, create_segmenter
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.weights import export_tensors
from densenet_suite.modelfile import read_card, write_model_file
from densenet_suite.preprocess import Normalization
from densenet_suite.segmentation.build import load_model, save_segmenter
from densenet_suite.segmentation.structures import MaskClasses

NUCLEI = MaskClasses(("background", "nucleus"), ((0, 0, 0), (255, 0, 0)))
OVERLAPPING = MaskClasses(("road", "water"), ((9, 9, 9), (0, 0, 255)), multilabel=True)


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def create(*arguments, **options):
    decoder, *rest = arguments or ("unet",)
    small = {"channels": (16, 16, 8, 8, 8)} if decoder == "unet" else {}
    return create_segmenter(decoder, *rest, **{"backbone": TINY_BACKBONE, **small, **options})


def outputs(model, channels=3):
    images = torch.arange(channels * 64 * 96).remainder(251).to(torch.uint8).reshape(1, channels, 64, 96)
    with torch.no_grad():
        return model.eval()(images)


def test_a_number_of_classes_alone_gives_them_numbers_for_names():
    classes = create("unet", 3).classes
    assert (classes.names, classes.multilabel) == (("class 1", "class 2", "class 3"), False)
    assert len(set(classes.colours)) == 3


@pytest.mark.parametrize("classes", [["background", "nucleus"], NUCLEI])
def test_names_travel_with_the_model(classes):
    model = create(classes=classes)
    assert model.classes.names == NUCLEI.names
    assert outputs(model).shape == (1, 2, 64, 96)


def test_classes_may_overlap():
    assert create(classes=["road"], multilabel=True).classes.multilabel
    assert create(classes=OVERLAPPING).classes == OVERLAPPING


def test_no_classes_are_refused():
    with pytest.raises(ConfigError, match=r"no classes are given(.|\n)*num_classes=2"):
        create()


@pytest.mark.parametrize("classes", [["a", "b"], NUCLEI])
def test_a_number_that_contradicts_the_names_is_refused(classes):
    with pytest.raises(ConfigError, match="num_classes is 3, and 2 classes are named"):
        create("unet", 3, classes=classes)


def test_overlap_that_contradicts_the_classes_is_refused():
    with pytest.raises(ConfigError, match="multilabel is True, and the given classes exclude each other"):
        create(classes=NUCLEI, multilabel=True)


def test_equal_names_are_refused():
    with pytest.raises(ConfigError, match="classes a, b, a are not all different"):
        create(classes=["a", "b", "a"])


def test_one_class_that_excludes_others_is_refused_with_both_remedies():
    with pytest.raises(ConfigError, match=r"leaves nothing to tell apart(.|\n)*background too, or say multilabel=True"):
        create("unet", 1)


@pytest.mark.parametrize("number", [0, -1, 256])
def test_numbers_of_classes_that_no_mask_holds_are_refused(number):
    with pytest.raises(ConfigError, match=f"{number} classes: a mask tells apart 1 to 255"):
        create("unet", number)


def test_an_unknown_backbone_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown backbone 'efficientnet_b33'(.|\n)*efficientnet_b3"):
        create("unet", 2, backbone="efficientnet_b33")


def test_a_missing_weight_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="weight file does not exist"):
        create("unet", 2, weights=tmp_path / "nothing.pth")


def test_pixel_statistics_are_the_backbones_unless_given():
    assert create("unet", 2).preprocess.normalization == Normalization.imagenet()
    own = Normalization((0.1,) * 5, (0.2,) * 5, value_range=10_000.0)
    assert create("unet", 2, in_channels=5, normalization=own).preprocess.normalization == own


def test_choices_of_the_decoder_are_kept():
    model = create("unet", 2, attention="scse", norm="group", deep_supervision=True, drop_path=0.3, checkpointing=True)
    assert (model.spec.attention, model.spec.norm, model.spec.deep_supervision) == ("scse", "group", True)
    assert (model.backbone.spec.drop_path, model.backbone.checkpointing) == (0.3, True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_channels": 13, "normalization": Normalization((0.1,) * 13, (0.2,) * 13, value_range=1.0)},
        {"attention": "scse", "norm": "group", "deep_supervision": True},
        {"decoder": "bifpn", "classes": OVERLAPPING},
        {"decoder": "deeplabv3plus", "backbone": "timm/resnet10t"},
    ],
)
def test_a_model_file_alone_gives_the_model_back(options, tmp_path):
    given = {"classes": NUCLEI, **options}
    model = randomize(create(given.pop("decoder", "unet"), **given))
    save_segmenter(tmp_path / "model.safetensors", model, (64, 96), {"run": "x"})
    again, card = load_model(tmp_path / "model.safetensors")
    bands = given.get("in_channels", 3)
    torch.testing.assert_close(outputs(again, bands), outputs(model, bands), rtol=0, atol=0)
    assert (again.classes, again.spec) == (model.classes, model.spec)
    assert again.preprocess.normalization == model.preprocess.normalization
    assert (card["task"], card["input_size"], card["provenance"]) == ("segmentation", [64, 96], {"run": "x"})
    assert card["segmenter"]["decoder"] == model.spec.decoder


def test_a_loaded_model_is_ready_for_use(tmp_path):
    save_segmenter(tmp_path / "model.safetensors", create(classes=NUCLEI), (64, 96))
    shutil.move(tmp_path / "model.safetensors", tmp_path / "moved.safetensors")
    assert not load_model(tmp_path / "moved.safetensors")[0].training


def test_model_files_from_before_backbones_had_taps_load(tmp_path):
    model = randomize(create(classes=NUCLEI))
    save_segmenter(tmp_path / "model.safetensors", model, (64, 96))
    card = read_card(tmp_path / "model.safetensors")
    del card["backbone"]["spec"]["tap_blocks"], card["format"]
    write_model_file(tmp_path / "old.safetensors", model.state_dict(), card)
    torch.testing.assert_close(outputs(load_model(tmp_path / "old.safetensors")[0]), outputs(model), rtol=0, atol=0)


def test_foreign_weights_are_no_model_file(tmp_path):
    torch.save(create("unet", 2).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ConfigError, match=r"not a model file of a segmenter(.|\n)*load through create_segmenter"):
        load_model(tmp_path / "plain.pth")


def test_a_model_that_nobody_can_rebuild_is_not_saved(tmp_path):
    model = create("unet", 2)
    model.backbone.card = None
    with pytest.raises(ConfigError, match=r"the segmenter's backbone has no card(.|\n)*create_backbone"):
        save_segmenter(tmp_path / "model.safetensors", model, (64, 96))
    assert not (tmp_path / "model.safetensors").exists()


def test_it_is_built_without_data_too():
    with torch.device("meta"):
        model = create("unet", 2)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert asdict(model.spec)["channels"] == (16, 16, 8, 8, 8)


@pytest.mark.parametrize("backbone", ["efficientnet(width=0.25, depth=0.25)", "timm/resnet18"])
def test_an_rgb_answer_is_unchanged_when_extra_bands_are_zero(backbone, tmp_path):
    rgb = create_segmenter("unet", num_classes=3, backbone=backbone).eval()
    randomize(rgb)
    own = isinstance(rgb.backbone, EfficientNet)
    tensors = export_tensors(rgb.backbone, "timm") if own else rgb.backbone.net.state_dict()
    save_file(tensors, tmp_path / "backbone.safetensors")
    bands = ("new", "red", "green", "blue", "new")
    weights = {"weights": tmp_path / "backbone.safetensors", "bands": bands}
    five = create_segmenter("unet", num_classes=3, backbone=backbone, in_channels=5, **weights).eval()
    five.decoder.load_state_dict(rgb.decoder.state_dict())
    five.head.load_state_dict(rgb.head.state_dict())
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    wide = torch.zeros(1, 5, 64, 96, dtype=torch.uint8)
    wide[:, 1:4] = image
    with torch.no_grad():
        torch.testing.assert_close(five(wide), rgb(image), rtol=1e-5, atol=1e-5)

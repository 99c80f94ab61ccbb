"""Labelled images to batches, and the data module."""

import json
import logging
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from properties import repeatable

from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.data import DetectionData
from densenet_suite.detection.layout import CocoFile
from densenet_suite.detection.samples import DetectionSamples, Sample, collate
from densenet_suite.detection.structures import IGNORE, ClassTable
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.geometry import Letterbox
from densenet_suite.labelled_data import Reading
from densenet_suite.sampling import SampleKey

SIZE = (48, 64)
FILL = (9, 8, 7)


def _data(root, **changes):
    return DetectionData(root, **{"size": SIZE, "batch": 4, "workers": 0, **changes})


def _epoch(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _same(first, second):
    tensors = [name for name, value in vars(first).items() if isinstance(value, torch.Tensor)]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A dataset of white rectangles on black, one of them a crowd, in pictures of several shapes."""
    root = tmp_path_factory.mktemp("painted")
    shapes = [(30, 40), (8, 1200), (1200, 8), (60, 60), (1, 1)]
    images, annotations = [], []
    (root / "images" / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    for i, (height, width) in enumerate(shapes):
        pixels = np.zeros((height, width, 3), np.uint8)
        box = [width // 4, height // 4, max(1, width // 2), max(1, height // 2)]
        pixels[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 255
        Image.fromarray(pixels).save(root / "images" / "train" / f"{i}.png")
        images.append({"id": 10 * i, "file_name": f"{i}.png", "height": height, "width": width})
        annotations += [
            {"id": 2 * i, "image_id": 10 * i, "category_id": 7, "bbox": box, "iscrowd": 0},
            {"id": 2 * i + 1, "image_id": 10 * i, "category_id": 9, "bbox": [0, 0, width, height], "iscrowd": 1},
        ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 9, "name": "crowd"}, {"id": 7, "name": "block"}],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


def _samples(root, policy=None, bands=3, seed=0):
    source = read_coco("train", root / "annotations" / "instances_train.json", root / "images" / "train")
    return DetectionSamples(source, SIZE, bands, FILL[:bands], policy, seed)


# samples


@pytest.mark.parametrize("index", range(5))
def test_a_sample_for_evaluation_is_the_letterboxed_picture_with_its_boxes(painted, index):
    samples = _samples(painted)
    sample = samples[SampleKey(0, index)]
    entry = samples.source.images[index]
    letterbox = Letterbox.fit((entry.height, entry.width), SIZE)
    pixels = np.array(Image.open(entry.path))
    assert sample.image.dtype == torch.uint8
    assert (sample.image.numpy() == letterbox.image(pixels, FILL).transpose(2, 0, 1)).all()
    assert (sample.index, sample.size, sample.scale) == (index, (entry.height, entry.width), letterbox.scale)
    np.testing.assert_allclose(sample.boxes.numpy(), letterbox.boxes(entry.objects.boxes[:1]), rtol=1e-6)


def test_crowd_regions_are_not_trained_on(painted):
    samples = _samples(painted)
    assert samples.source.images[0].objects.labels.tolist() == [0, 1]
    assert samples[SampleKey(0, 0)].labels.tolist() == [0]


def test_boxes_are_clipped_before_they_are_trained_on(synthetic, tmp_path):
    source = synthetic / "annotations" / "instances_train.json"
    content = json.loads(source.read_text())
    content["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [-50, -50, 400, 400]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [-0.5, 3, 0.5, 5]},  # nothing is left of this one
    ]
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = read_coco("train", tmp_path / "a.json", synthetic / "images" / "train")
    sample = DetectionSamples(dataset, (64, 96), 3, FILL, None, 0)[SampleKey(0, 0)]
    assert sample.boxes.tolist() == [[0, 0, 96, 64]]


def test_grey_models_get_one_band(painted):
    assert _samples(painted, bands=1)[SampleKey(0, 0)].image.shape == (1, *SIZE)


@pytest.mark.parametrize("index", range(5))
def test_augmented_boxes_follow_the_pixels_in_pictures_of_any_shape(painted, index):
    policy = AugmentPolicy(flip=0.5, vertical_flip=0.5, scale=(0.5, 1.6))
    samples = _samples(painted, policy)
    for epoch in range(8):
        sample = samples[SampleKey(epoch, index)]
        assert sample.image.shape == (3, *SIZE)
        assert len(sample.labels) == len(sample.boxes)
        bright = (sample.image[0] > 127).numpy()
        if len(sample.boxes) and bright.any():
            rows, columns = np.nonzero(bright.any(1))[0], np.nonzero(bright.any(0))[0]
            seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(sample.boxes[0], seen, atol=1.5)


def test_a_draw_is_a_function_of_seed_epoch_and_index(synthetic):
    def draw(seed=0, epoch=0, index=0):
        source = read_coco("train", synthetic / "annotations/instances_train.json", synthetic / "images/train")
        samples = DetectionSamples(source, SIZE, 3, FILL, preset_policy("standard", "detection"), seed)
        return samples[SampleKey(epoch, index)].image

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw(), draw(seed=1))
    assert not torch.equal(draw(), draw(epoch=1))


def test_labels_are_those_of_the_objects_own_picture_whatever_is_mixed(tmp_path):
    # each object's grey tells its label; crowd regions and boxes outside stand between them
    (tmp_path / "images").mkdir()
    images, annotations, labels = [], [], iter(range(20))
    for i in range(4):
        pixels = np.zeros((50, 80, 3), np.uint8)
        for column in range(3):
            label = next(labels)
            pixels[10:40, 25 * column + 5 : 25 * column + 25] = 20 * (label + 1)
            box, crowd = [25 * column + 5, 10, 20, 30], {"image_id": i, "category_id": 12, "iscrowd": 1}
            annotations += [
                {"bbox": [0, 0, 80, 50], **crowd},
                {"bbox": box, "image_id": i, "category_id": label, "segmentation": [[]] if column else []},
            ]
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 50, "width": 80})
    annotations = [{"id": number, **annotation} for number, annotation in enumerate(annotations)]
    categories = [{"id": label, "name": f"c{label:02}"} for label in range(13)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    source = read_coco("train", tmp_path / "a.json", tmp_path / "images")
    policy = AugmentPolicy(flip=0.5, scale=(0.8, 1.6), mosaic=0.5, copy_paste=0.7, cutout=0.3, min_visibility=0.6)
    samples = DetectionSamples(source, (64, 96), 3, (0, 0, 0), policy, 0)
    seen = set()
    for epoch in range(30):
        sample = samples[SampleKey(epoch, epoch % 4)]
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            shown = sample.image[0, round(y1) : round(y2), round(x1) : round(x2)].numpy()
            assert (np.abs(shown.astype(int) - 20 * (label + 1)) <= 2).mean() > 0.4  # most of what is not erased
            seen.add(label)
    assert seen == set(range(12))


def test_outlines_are_those_of_the_objects_that_are_trained_on(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    triangle, line = [1, 1, 20, 1, 1, 20], [1, 1, 20, 1]
    boxes = {"bbox": [1, 1, 19, 19], "image_id": 1, "category_id": 1}
    annotations = [
        {"id": 1, **boxes, "iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [1200]}},
        {"id": 2, **boxes, "segmentation": [triangle, line]},
        {"id": 3, **boxes},
    ]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps({**content, "annotations": annotations}))
    samples = DetectionSamples(read_coco("train", tmp_path / "a.json", tmp_path), SIZE, 3, FILL, None, 0)
    assert [outline.tolist() for outline in samples.polygons(0, 0)] == [[[1, 1], [20, 1], [1, 20]]]
    assert samples.polygons(0, 1) == []


def test_a_picture_that_has_changed_since_is_noticed(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    samples = DetectionSamples(read_coco("train", tmp_path / "a.json", tmp_path / "images"), SIZE, 3, FILL, None, 0)
    Image.new("RGB", (40, 31)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match="the picture has another size than when training began") as caught:
        samples[SampleKey(0, 0)]
    place = f"{tmp_path / 'images' / 'a.png'}; sample 0 of epoch 0, reading the picture"
    assert caught.value.problems[0].where == place


# batches


def _sample(objects, index=0):
    boxes = torch.arange(4 * objects, dtype=torch.float32).reshape(-1, 4)
    return Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), boxes, torch.arange(objects), index, (5, 6), (1.5, 1.25))


def test_a_batch_is_padded_to_its_largest_number_of_objects():
    batch = collate([_sample(2, 4), _sample(0, 5), _sample(3, 6)])
    assert batch.boxes.shape == (3, 3, 4)
    assert batch.labels.tolist() == [[0, 1, -1], [-1, -1, -1], [0, 1, 2]]
    assert torch.equal(batch.boxes[0, :2], _sample(2).boxes)
    assert batch.indices.tolist() == [4, 5, 6]
    assert batch.sizes.tolist() == [[5, 6]] * 3
    assert batch.scales.tolist() == [[1.5, 1.25]] * 3
    assert len(batch) == 3


@repeatable
@given(st.data(), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**40)), min_size=1, max_size=6))
def test_permuted_samples_are_a_permuted_batch(data, counts):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    samples = []
    for objects, index in counts:
        image = torch.randint(0, 256, (3, 4, 5), generator=generator, dtype=torch.uint8)
        boxes, labels = torch.rand(objects, 4, generator=generator), torch.randint(9, (objects,), generator=generator)
        size, scale = data.draw(st.tuples(st.integers(1, 9999), st.integers(1, 9999))), (index % 7 + 0.5, 1.25)
        samples.append(Sample(image, boxes, labels, index, size, scale))
    order = data.draw(st.permutations(range(len(samples))))
    batch, permuted = collate(samples), collate([samples[i] for i in order])
    for name in ("images", "boxes", "labels", "indices", "sizes", "scales"):
        assert torch.equal(getattr(permuted, name), getattr(batch, name)[list(order)])
    for i, sample in enumerate(samples):
        row = batch.labels[i] != IGNORE
        assert torch.equal(batch.boxes[i][row], sample.boxes)
        assert torch.equal(batch.labels[i][row], sample.labels)
        assert row.sum() == len(sample.labels)
        assert (batch.indices[i], batch.sizes[i].tolist()) == (sample.index, list(sample.size))


def test_three_hundred_objects_all_count():
    assert (collate([_sample(300), _sample(1)]).labels[0] >= 0).all()


def test_a_batch_of_empty_pictures_is_a_batch():
    batch = collate([_sample(0), _sample(0)])
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.labels.shape == (2, 0)
    assert batch.labels.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_stops_the_epoch_and_is_named(data_folder, tmp_path, workers):
    shutil.copy(data_folder("bad-inputs") / "files" / "truncated.jpg", tmp_path)
    content = {"images": [{"id": 1, "file_name": "truncated.jpg"}], "annotations": []}
    (tmp_path / "train.json").write_text(json.dumps({**content, "categories": [{"id": 1, "name": "a"}]}))
    loader = _data(tmp_path, batch=1, workers=workers).train_dataloader()
    with pytest.raises(DataError, match="image file is damaged: image file is truncated") as caught:
        next(iter(loader))
    assert str(tmp_path / "truncated.jpg") in str(caught.value)


# the data module


def test_splits_are_found_below_the_root(synthetic):
    data = _data(synthetic)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 5, "test": 3}
    assert data.classes == data.split("val").classes == ClassTable.numbered(["disc", "square", "triangle", "star"])


def test_what_grey_pictures_do_not_allow_is_left_out_and_said_once(synthetic, caplog):
    data = _data(synthetic, bands=1)
    with caplog.at_level(logging.INFO, "densenet_suite"):
        for _ in range(2):
            data.train_dataloader()
    said = [record.message for record in caplog.records if "augment" in record.message]
    assert said == [
        "augment.preset standard without saturation and hue (8 bits and 3 bands): images are uint8 of 1 band"
    ]


def test_a_change_of_ones_own_that_grey_pictures_do_not_allow_is_refused(synthetic):
    data = _data(synthetic, bands=1, augment=AugmentPolicy(hue=0.1))
    with pytest.raises(
        ConfigError, match=r"augment\.hue 0\.1 needs 8 bits and 3 bands; these images are uint8 of 1 ba"
    ):
        data.train_dataloader()


def test_the_last_epochs_of_a_run_are_plain(synthetic):
    policy = AugmentPolicy(cutout=1.0, plain_epochs=1)
    samples = _data(synthetic, augment=policy, epochs=3).train_dataloader().dataset
    erased = [
        (samples[SampleKey(epoch, 0)].image.permute(1, 2, 0) == torch.tensor(samples.fill)).all(-1).sum()
        for epoch in range(3)
    ]
    assert erased[0] > erased[2]
    assert erased[1] > erased[2]


def test_workers_change_nothing(synthetic):
    alone, helped = (_data(synthetic, workers=workers).train_dataloader() for workers in (0, 2))
    for epoch in (3, 0):
        batches = list(zip(_epoch(alone, epoch), _epoch(helped, epoch), strict=True))
        assert len(batches) == 3
        assert all(_same(*pair) for pair in batches)


def test_an_epoch_can_be_repeated_and_another_one_differs(synthetic):
    first, again = _data(synthetic).train_dataloader(), _data(synthetic).train_dataloader()
    batches = _epoch(first, 2)
    assert not any(_same(*pair) for pair in zip(batches, _epoch(first, 3), strict=True))
    assert all(_same(*pair) for pair in zip(batches, _epoch(again, 2), strict=True))


def test_another_seed_gives_other_batches(synthetic):
    one, other = (_epoch(_data(synthetic, seed=seed).train_dataloader(), 0) for seed in (0, 1))
    assert not any(_same(*pair) for pair in zip(one, other, strict=True))


def test_an_epoch_of_training_shows_each_image_at_most_once(synthetic):
    batches = _epoch(_data(synthetic, batch=5).train_dataloader(), 0)
    indices = [index for batch in batches for index in batch.indices.tolist()]
    assert [len(batch) for batch in batches] == [5, 5]
    assert len(set(indices)) == 10


def test_lightning_chooses_the_epoch_of_the_sampler(synthetic):
    class Watch(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen = []

        def training_step(self, batch, index):
            self.seen.append(batch.indices.tolist())
            return self.layer(torch.ones(1, 1)).sum()

        def validation_step(self, batch, index):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    watch = Watch()
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, limit_val_batches=0, **quiet)
    trainer.fit(watch, datamodule=_data(synthetic))
    ours = _data(synthetic).train_dataloader()
    assert watch.seen == [batch.indices.tolist() for epoch in (0, 1) for batch in _epoch(ours, epoch)]


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("val", 5), ("test", 3)])
def test_evaluation_shows_every_image_once_in_order(synthetic, split, count):
    batches = list(_data(synthetic).eval_dataloader(split))
    assert [index for batch in batches for index in batch.indices.tolist()] == list(range(count))


def test_the_loaders_of_lightning_are_those_of_evaluation(synthetic):
    data = _data(synthetic)
    for loader, split in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        assert all(_same(*pair) for pair in zip(loader, data.eval_dataloader(split), strict=True))


def test_pictures_are_padded_with_the_models_filling(painted):
    data = _data(painted, batch=5, holdout=0)
    data.fill = (1, 2, 3)
    wide, high = next(iter(data.eval_dataloader("train"))).images[1:3]  # 1200x8 and 8x1200
    assert wide[:, -1, -1].tolist() == high[:, -1, -1].tolist() == [1, 2, 3]


def test_a_batch_larger_than_the_dataset_is_refused_with_one_that_fits(synthetic):
    with pytest.raises(ConfigError, match=r"train\.batch 13 on 1 processes is more than the 12 train") as caught:
        _data(synthetic, batch=13).train_dataloader()
    assert caught.value.problems[0].hint == "train.batch=12"


def test_a_split_that_is_not_there_is_refused_with_what_is(painted):
    with pytest.raises(DataError, match=r"there is no test split \(found: train\)") as caught:
        _data(painted).split("test")
    (problem,) = caught.value.problems
    assert problem.where == str(painted)
    assert problem.hint.startswith("expected annotations/instances_test.json or test/_annotations.coco.json")
    assert problem.hint.endswith("or name it: data.test.annotations=...")


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no train split \(found: none\)"):
        _ = _data(tmp_path).classes


def test_without_a_val_split_training_images_are_held_out_and_said_so(painted, caplog):
    with caplog.at_level(logging.INFO, logger="densenet_suite"):
        splits = _data(painted, holdout=0.4).splits
    names = {name: {image.path.name for image in split.images} for name, split in splits.items()}
    assert names["train"] | names["val"] == {f"{i}.png" for i in range(5)}
    assert not names["train"] & names["val"]
    assert f"{len(names['val'])} of 5 training images are held out to validate on (data.holdout=0.4)" in caplog.text


def test_a_holdout_of_nothing_means_no_validation(painted):
    data = _data(painted, holdout=0)
    assert len(data.split("train")) == 5
    assert data.val_dataloader() == []


def test_named_splits_go_before_those_that_are_found(synthetic):
    paths = CocoFile(synthetic / "annotations" / "instances_test.json", synthetic / "images" / "test")
    data = _data(synthetic, named={"val": paths})
    assert len(data.split("val")) == 3
    assert len(data.split("train")) == 12


def test_the_classes_of_a_trained_model_are_matched_by_name(synthetic):
    trained = ClassTable(("star", "triangle", "cow", "disc", "square"), (11, 12, 13, 14, 15))
    own, given = _data(synthetic), _data(synthetic, classes=trained)
    assert given.classes == trained
    for split in ("train", "val", "test"):
        for ours, theirs in zip(given.split(split).images, own.split(split).images, strict=True):
            names = [trained.names[label] for label in ours.objects.labels]
            assert names == [own.classes.names[label] for label in theirs.objects.labels]


def test_the_val_split_has_the_labels_of_the_training_split_whatever_its_ids(synthetic, tmp_path):
    content = json.loads((synthetic / "annotations" / "instances_val.json").read_text())
    for entry in content["categories"]:
        entry["id"] = 100 - entry["id"]  # the other way round
    for entry in content["annotations"]:
        entry["category_id"] = 100 - entry["category_id"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    other = _data(synthetic, named={"val": CocoFile(tmp_path / "a.json", synthetic / "images" / "val")})
    for ours, theirs in zip(other.split("val").images, _data(synthetic).split("val").images, strict=True):
        assert (ours.objects.labels == theirs.objects.labels).all()


def test_a_class_that_was_not_trained_on_is_refused(synthetic):
    with pytest.raises(DataError, match="category 'star' is not among the classes trained on"):
        _ = _data(synthetic, classes=ClassTable.numbered(["disc", "square", "triangle"])).splits


@pytest.mark.parametrize("bands", [1, 3])
def test_bands_are_those_of_the_model(synthetic, bands):
    data = _data(synthetic, bands=bands)
    assert next(iter(data.train_dataloader())).images.shape == (4, bands, *SIZE)
    assert next(iter(data.val_dataloader())).images.shape == (4, bands, *SIZE)


def test_workers_are_none_where_the_cpu_trains(synthetic):
    assert _data(synthetic, workers=None).train_dataloader().num_workers == 0


# cache, damaged pictures, links


@pytest.fixture
def photos(tmp_path):
    """Return a dataset of 120 JPEGs of 200 x 300 pixels, with a box in each, of which some are to be damaged."""
    root = tmp_path / "photos"
    (root / "images" / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for i in range(120):
        small = Image.fromarray(rng.integers(0, 256, (10, 15, 3), dtype=np.uint8))
        small.resize((300, 200)).save(root / "images" / "train" / f"{i}.jpg")
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 200, "width": 300} for i in range(120)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [50, 40, 100, 90]} for i in range(120)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


def _cut(root, *numbers):
    for number in numbers:
        path = root / "images" / "train" / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:-200])  # the header, which is checked first, is whole


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_no_sample(photos, monkeypatch, tmp_path, cache, workers):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    policy = AugmentPolicy(flip=0.5, scale=(0.1, 2.0), brightness=0.2)  # so small that some are decoded at an eighth
    plain = _data(photos, augment=policy, holdout=0.0).train_dataloader()
    cached = _data(photos, augment=policy, holdout=0.0, workers=workers, reading=Reading(cache)).train_dataloader()
    for epoch in range(3):
        pairs = zip(_epoch(plain, epoch), _epoch(cached, epoch), strict=True)
        assert all(_same(one, other) for one, other in pairs)


def test_training_decodes_no_more_than_it_needs(photos, monkeypatch):
    seen = []
    samples = _data(photos, augment=AugmentPolicy(scale=(0.5, 0.5)), holdout=0.0).train_dataloader().dataset
    monkeypatch.setattr(samples, "at_work", lambda stage, image: seen.append(stage))
    assert samples.pixels(0, (25, 30)).shape == (25, 38, 3)
    assert samples.pixels(0).shape == (200, 300, 3)
    assert seen == ["reading the picture", "augmenting"] * 2


def test_damaged_pictures_are_left_out_where_they_are_found(photos):
    (photos / "images" / "train" / "7.jpg").write_bytes(b"")  # found by its header
    _cut(photos, 9)  # found by its pixels
    data = _data(photos, holdout=0.0, reading=Reading(skip_damaged=True))
    train = data.split("train")
    assert len(train) == 119
    batches = _epoch(data.train_dataloader(), 0)
    assert sorted(int(i) for batch in batches for i in batch.indices).count(8) == 0  # 9.jpg
    assert data.note_damage() == [
        f"train: {photos / 'images' / 'train' / '9.jpg'} cannot be decoded; other pictures take its place"
    ]
    assert data.note_damage() == []
    assert [Path(entry["file"]).name for entry in train.report()["damaged"]] == ["7.jpg", "9.jpg"]
    assert {finding.check: finding.count for finding in train.findings} == {"image-damaged": 2}


def test_by_default_a_damaged_picture_stops_the_run(photos):
    _cut(photos, 9)
    with pytest.raises(DataError, match=r"image file is damaged: .*9\.jpg; sample 9 of epoch 0, reading the picture"):
        _epoch(_data(photos, holdout=0.0).train_dataloader(), 0)


def test_pictures_that_are_damaged_in_numbers_are_an_error_before_training(photos):
    for number in (3, 4):
        (photos / "images" / "train" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 120 pictures cannot be decoded, more than the 1%"):
        _data(photos, holdout=0.0, reading=Reading(skip_damaged=True)).split("train")


def test_in_evaluation_the_objects_of_a_damaged_picture_stay_to_be_missed(photos):
    _cut(photos, 2)
    data = _data(photos, holdout=0.0, reading=Reading(skip_damaged=True))
    batch = next(iter(data.eval_dataloader("train")))
    assert batch.indices.tolist() == [0, 1, 2, 3]
    assert (batch.images[2] == torch.tensor(data.fill, dtype=torch.uint8).view(3, 1, 1)).all()
    assert (batch.labels[2] == 0).sum() == 1


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_link_out_of_the_dataset_is_refused(photos, tmp_path, where):
    picture = photos / "images" / "train" / "5.jpg"
    place = tmp_path / "elsewhere.jpg" if where == "outside" else photos / "all" / "5.jpg"
    place.parent.mkdir(exist_ok=True)
    picture.rename(place)
    picture.symlink_to(place)
    data = _data(photos, holdout=0.0)
    if where == "inside":
        assert len(data.split("train")) == 120
        return
    with pytest.raises(
        DataError, match=r"5\.jpg is a link to .*elsewhere\.jpg: files of a dataset lie inside"
    ) as caught:
        data.split("train")
    assert caught.value.problems[0].hint == "copy them into it, or link their whole folder"


def test_a_folder_may_be_a_link(photos, tmp_path):
    (photos / "images").rename(tmp_path / "far")
    (photos / "images").symlink_to(tmp_path / "far")
    (tmp_path / "root").symlink_to(photos)
    assert len(_data(tmp_path / "root", holdout=0.0).split("train")) == 120


def test_memory_cannot_be_shared_by_processes_that_are_not_forked(photos, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "spawn")
    with pytest.raises(ConfigError, match=r"data\.cache: ram needs worker processes that share memory"):
        _data(photos, holdout=0.0, workers=1, reading=Reading("ram")).train_dataloader()

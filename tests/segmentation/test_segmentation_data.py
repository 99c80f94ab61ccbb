"""The data module of segmentation."""

import logging

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.preprocess import Normalization
from densenet_suite.sampling import SampleKey
from densenet_suite.segmentation.data import SegmentationData
from densenet_suite.segmentation.structures import MaskClasses, SegmentationBatch

CROP = (32, 48)
CLASSES = {"background": 0, "disc": 10, "bar": 20}


def _paint(folder, split, number, size=(40, 60), bands=3, seed=0):
    """Write noisy images that show their mask, with a disc in all and a bar in some."""
    rng = np.random.default_rng([seed, len(split)])
    for kind in ("images", "masks"):
        (folder / kind / split).mkdir(parents=True)
    for i in range(number):
        rows, columns = np.mgrid[: size[0], : size[1]]
        mask = np.zeros(size, np.uint8)
        mask[np.hypot(rows - rng.integers(size[0]), columns - rng.integers(size[1])) < 9] = 10
        if i % 3 == 0:
            mask[:, 5:8] = 20
        image = (mask[:, :, None] * 8 + rng.integers(0, 60, (*size, bands))).astype(np.uint8)
        Image.fromarray(image if bands == 3 else image[:, :, 0]).save(folder / "images" / split / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / split / f"{i}.png")


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    root = tmp_path_factory.mktemp("painted")
    for split, number in (("train", 9), ("val", 4), ("test", 2)):
        _paint(root, split, number)
    return root


@pytest.fixture
def only_train(tmp_path):
    _paint(tmp_path, "train", 10)
    return tmp_path


def _data(root, **changes):
    return SegmentationData(root, **{"crop": CROP, "batch": 4, "classes": CLASSES, "workers": 0, **changes})


def _epoch(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "masks", "indices"))


# splits


def test_splits_are_found_below_the_root(painted):
    data = _data(painted)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 9, "val": 4, "test": 2}
    assert data.classes.names == ("background", "disc", "bar")
    assert data.classes == data.split("val").classes


def test_a_split_that_is_not_there_is_named(only_train):
    with pytest.raises(DataError, match=r"there is no test split \(found: train\)") as caught:
        _data(only_train).split("test")
    (problem,) = caught.value.problems
    assert problem.where == str(only_train)
    assert problem.hint.startswith("expected images/test and masks/test, test.csv or annotations/instances_test.json")
    assert problem.hint.endswith("or name it: data.test.images=... and data.test.masks=...")


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no train split \(found: none\)"):
        _ = _data(tmp_path).classes


def test_classes_may_come_from_the_masks(painted):
    assert _data(painted, classes=None).classes.names == ("0", "10", "20")


def test_the_classes_of_a_trained_model_keep_their_order(painted):
    given = MaskClasses(("bar", "background", "disc"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    data = _data(painted, given=given)
    assert data.classes == data.split("val").classes == given
    own = _data(painted).split("val").pixel_counts
    assert (data.split("val").pixel_counts == own[:, [2, 0, 1]]).all()


def test_without_a_val_split_training_images_are_held_out_and_said_so(only_train, caplog):
    with caplog.at_level(logging.INFO, logger="densenet_suite"):
        splits = _data(only_train, holdout=0.4).splits
    names = {name: {scene.path.name for scene in split.scenes} for name, split in splits.items()}
    assert names["train"] | names["val"] == {f"{i}.png" for i in range(10)}
    assert not names["train"] & names["val"]
    assert f"{len(names['val'])} of 10 training images are held out to validate on (data.holdout=0.4)" in caplog.text


def test_a_holdout_of_nothing_means_no_validation(only_train):
    data = _data(only_train, holdout=0)
    assert len(data.split("train")) == 10
    assert data.val_dataloader() == []


def test_named_splits_go_before_those_that_are_found(painted):
    data = _data(painted, named={"val": ("images/test", "masks/test")})
    assert len(data.split("val")) == 2
    assert len(data.split("train")) == 9


def test_images_that_are_trained_on_too_are_found(painted):
    data = _data(painted, named={"val": ("images/train", "masks/train")})
    (finding,) = (finding for finding in data.splits["val"].findings if finding.check == "shared-image")
    assert finding.count == 9
    assert str(finding) == "image 0.png is in the train split too: its score will be too good and 8 more"


# training


def test_training_batches_are_crops(painted):
    batches = list(_data(painted).train_dataloader())
    assert len(batches) == 2
    for batch in batches:
        assert isinstance(batch, SegmentationBatch)
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, *CROP), torch.uint8)
        assert (batch.masks.shape, batch.masks.dtype) == ((4, *CROP), torch.uint8)
        assert set(batch.masks.unique().tolist()) <= {0, 1, 2, 255}


def test_every_image_is_drawn_as_often_as_it_is_asked_for(painted):
    loader = _data(painted, batch=9, crops_per_image=3).train_dataloader()
    batches = _epoch(loader, 0)
    assert torch.cat([batch.indices for batch in batches]).bincount().tolist() == [3] * 9
    images = torch.cat([batch.images for batch in batches])
    assert len({image.numpy().tobytes() for image in images}) == 27


def test_epochs_differ_and_repeat_themselves(painted):
    first, second = _data(painted).train_dataloader(), _data(painted).train_dataloader()
    assert all(_same(ours, theirs) for ours, theirs in zip(_epoch(first, 3), _epoch(second, 3), strict=True))
    assert not _same(_epoch(first, 3)[0], _epoch(first, 4)[0])
    assert not _same(_epoch(first, 3)[0], _epoch(_data(painted, seed=1).train_dataloader(), 3)[0])


def test_workers_change_nothing(painted):
    alone, helped = (_data(painted, workers=workers).train_dataloader() for workers in (0, 2))
    for epoch in (0, 1):
        pairs = list(zip(_epoch(alone, epoch), _epoch(helped, epoch), strict=True))
        assert all(_same(ours, theirs) for ours, theirs in pairs)


def test_rare_classes_are_seen_by_balance(painted):
    still = AugmentPolicy(flip=0.5)
    shares = []
    for balance in (0.0, 1.0):
        loader = _data(painted, crop=(8, 8), augment=still, balance=balance, crops_per_image=20).train_dataloader()
        seen = torch.cat([(batch.masks == 2).any(2).any(1) for batch in loader])
        shares.append(seen.float().mean().item())
    assert shares[1] > 1.5 * shares[0]


def test_more_in_a_batch_than_there_are_is_refused(painted):
    with pytest.raises(ConfigError, match="batch 20 on 1 processes is more than the 9 training crops") as caught:
        _data(painted, batch=20).train_dataloader()
    assert caught.value.problems[0].hint == "train.batch=9, or data.crops_per_image=3"


# evaluation


def test_evaluation_sees_whole_images_in_order(painted):
    data = _data(painted)
    batches = list(data.val_dataloader())
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 1, 2, 3]
    for i, scene in enumerate(data.split("val").scenes):
        assert (batches[0].images[i].numpy().transpose(1, 2, 0) == np.array(Image.open(scene.path))).all()
        raw = np.array(Image.open(painted / "masks" / "val" / scene.path.name))
        assert (batches[0].masks[i].numpy() * 10 == raw).all()


def test_images_of_different_sizes_are_not_batched(tmp_path):
    for split, size in (("train", (30, 40)), ("val", (30, 40))):
        _paint(tmp_path, split, 5, size)
    Image.new("RGB", (41, 30)).save(tmp_path / "images" / "val" / "2.png")
    Image.new("L", (41, 30)).save(tmp_path / "masks" / "val" / "2.png")
    batches = list(_data(tmp_path, batch=3).val_dataloader())
    assert [batch.indices.tolist() for batch in batches] == [[0, 1], [2], [3, 4]]
    assert [batch.masks.shape[-1] for batch in batches] == [40, 41, 40]


def test_scaled_images_meet_masks_in_pixels_of_the_files(painted):
    batch = next(iter(_data(painted, scale=0.5).val_dataloader()))
    assert batch.images.shape == (4, 3, 20, 30)
    assert batch.masks.shape == (4, 40, 60)


def test_any_split_can_be_evaluated(painted):
    data = _data(painted)
    assert len(data.eval_dataloader("train").dataset) == 9
    assert sum(len(batch) for batch in data.test_dataloader()) == 2


def test_every_process_evaluates_its_own_images(painted, monkeypatch):
    seen = []
    for rank in (0, 1):
        data = _data(painted)
        monkeypatch.setattr(type(data), "place", (rank, 2))
        seen.append(torch.cat([batch.indices for batch in data.val_dataloader()]).tolist())
    assert seen == [[0, 2], [1, 3]]


# what the images are


def test_grey_images_are_read_as_what_they_are(tmp_path):
    _paint(tmp_path, "train", 9, bands=1)
    data = _data(tmp_path)
    assert data.bands == 1
    assert next(iter(data.train_dataloader())).images.shape == (4, 1, *CROP)
    assert next(iter(_data(tmp_path, bands=3).train_dataloader())).images.shape == (4, 3, *CROP)


def test_colours_keep_the_statistics_of_the_weights_and_grey_has_its_own(painted, tmp_path):
    assert _data(painted).own_normalization is None
    _paint(tmp_path, "train", 5, bands=1)
    own = _data(tmp_path, holdout=0).own_normalization
    pixels = np.stack([np.array(Image.open(path)) for path in (tmp_path / "images" / "train").iterdir()]) / 255
    assert own.mean == pytest.approx([pixels.mean()])
    assert own.std == pytest.approx([pixels.std()])


def test_images_of_another_depth_than_the_network_was_made_for_are_refused(painted, tmp_path):
    data = _data(painted)
    data.normalization = Normalization((900.0,) * 3, (300.0,) * 3, value_range=1.0)
    with pytest.raises(DataError, match="pixels are uint8, the network was made for more than 8 bits") as caught:
        data.val_dataloader()
    assert caught.value.problems[0].where == str(painted / "images" / "val" / "0.png")
    assert caught.value.problems[0].hint == "convert the images to the depth of those it was trained on"
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9), np.uint16 if kind == "images" else np.uint8)).save(
            tmp_path / kind / "train" / "a.png"
        )
    data = _data(tmp_path, batch=1, holdout=0)
    data.normalization = Normalization((0.5,), (0.2,))
    with pytest.raises(DataError, match="pixels are uint16, the network was made for 8 bits"):
        data.train_dataloader()


def test_what_lies_outside_is_the_mean_of_the_network(painted):
    data = _data(painted, crop=(100, 100), augment=AugmentPolicy(flip=0.5, scale=(0.7, 1.4)))
    data.normalization = Normalization((0.2, 0.4, 0.6), (0.1,) * 3)
    batch = next(iter(data.train_dataloader()))
    outside = (batch.images == torch.tensor([51, 102, 153]).view(1, 3, 1, 1)).all(1)
    assert 0.3 < outside.float().mean() < 0.95
    assert (batch.masks[outside] == 255).float().mean() > 0.99


def test_overlapping_classes_have_a_channel_each(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("cell", "nucleus"):
        (tmp_path / "masks" / "train" / name).mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / "images" / "train" / f"{i}.png")
        for name in ("cell", "nucleus"):
            mask = (rng.random((40, 60)) < 0.3).astype(np.uint8) * 255
            Image.fromarray(mask).save(tmp_path / "masks" / "train" / name / f"{i}.png")
    data = _data(tmp_path, classes=None, multilabel=True, holdout=0)
    assert data.classes.names == ("cell", "nucleus")
    batch = next(iter(data.train_dataloader()))
    assert batch.masks.shape == (4, 2, *CROP)
    assert set(batch.masks.unique().tolist()) <= {0, 1, 255}
    assert next(iter(data.eval_dataloader("train"))).masks.shape == (4, 2, 40, 60)


# under a trainer


class _Counts(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.trained.append(batch.indices.tolist())
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        self.validated.append((batch.indices.tolist(), tuple(batch.masks.shape)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_of_ones_own_can_use_it(painted, tmp_path):
    counts = _Counts()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(counts, datamodule=_data(painted))
    assert len(counts.trained) == 4
    assert counts.trained[:2] != counts.trained[2:]
    assert counts.validated == [([0, 1, 2, 3], (4, 40, 60))] * 2


# real data


@pytest.mark.parametrize(
    ("name", "options", "bands", "classes"),
    [
        ("isbi-em", {"classes": {"membrane": 0, "cell": 255}}, 1, 2),
        ("dubai-aerial", {}, 3, 6),
        ("dsb2018-nuclei", {}, 3, 2),
    ],
)
def test_real_data_is_cropped_and_evaluated(data_folder, name, options, bands, classes):
    data = _data(data_folder(name), **{"classes": None, "crop": (64, 96), "bands": bands, **options})
    assert len(data.classes) == classes
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, bands, 64, 96)
    whole = next(iter(data.val_dataloader()))
    assert whole.images.shape[-2:] == whole.masks.shape[-2:]
    assert set(whole.masks.unique().tolist()) <= {*range(classes), 255}


# what the images allow


def test_what_these_images_do_not_allow_is_left_out_of_a_preset_and_said_once(tmp_path, caplog):
    _paint(tmp_path, "train", 8, bands=1)
    data = _data(tmp_path, augment=preset_policy("microscopy", "segmentation"))
    with caplog.at_level(logging.INFO, "densenet_suite"):
        for _ in range(2):
            data.train_dataloader()
    said = [record.message for record in caplog.records if "augment" in record.message]
    assert said == [
        "augment.preset microscopy without saturation and hue (8 bits and 3 bands): images are uint8 of 1 band"
    ]


def test_a_change_of_ones_own_that_these_images_do_not_allow_is_refused(tmp_path):
    _paint(tmp_path, "train", 8, bands=1)
    data = _data(tmp_path, augment=AugmentPolicy(saturation=0.3))
    with pytest.raises(ConfigError, match=r"augment\.saturation 0\.3 needs 8 bits and 3 bands; these images are uint8"):
        data.train_dataloader()


def test_the_last_epochs_of_a_run_are_plain(painted):
    data = _data(painted, crop=(16, 16), augment=AugmentPolicy(cutout=1.0, plain_epochs=1), epochs=3)
    samples = data.train_dataloader().dataset
    assert [bool((samples[SampleKey(epoch, 0)].mask == 255).any()) for epoch in range(3)] == [True, True, False]

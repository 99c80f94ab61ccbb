import json
import shutil

import detection_formats
import numpy as np
import pytest
import rasterio
import typer.testing
import yaml
from PIL import Image
from volume_files import SECRETS, patient, series, stored_as, write_nifti

import densenet_suite as ds
from densenet_suite.cli import app
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.verbs.dataset import open_dataset
from densenet_suite.volumes.voxels import file_of


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty small pictures with boxes and masks, in two splits."""
    from densenet_suite.synthetic import write_synthetic

    return write_synthetic(tmp_path_factory.mktemp("pictures"), {"train": 14, "val": 6}, size=(32, 48))


def objects(root, splits):
    """What each picture holds, by split, read anew: {split: {picture: boxes with classes}}."""
    data = open_dataset(root, task="detection").data
    names = [name for name in splits if data.has_files(name)]
    read = {name: data.read_split(name) for name in names}
    return {
        name: {
            image.path.name: [
                (read[name].classes.names[label], *box)
                for label, box in zip(image.objects.labels.tolist(), image.objects.boxes.tolist(), strict=True)
            ]
            for image in dataset.images
        }
        for name, dataset in read.items()
    }


def merged(parts):
    return {picture: rows for part in parts.values() for picture, rows in part.items()}


def with_boxes(pictures, root, layout):
    if layout == "coco":
        return shutil.copytree(pictures, root, ignore=shutil.ignore_patterns("masks"))
    return detection_formats.WRITERS[layout](pictures, root, ("train", "val"))


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo", "csv"])
def test_boxes_are_divided_in_their_own_format_and_none_changes(pictures, tmp_path, layout):
    root = with_boxes(pictures, tmp_path / layout, layout)
    if layout == "csv":  # as a spreadsheet writes it
        text = (root / "train.csv").read_text()
        (root / "train.csv").write_text("\ufeff" + '"image"' + text.removeprefix("image"), encoding="utf-8")
    before = objects(root, ("train", "val"))
    with pytest.raises(ConfigError, match=r"there is a val split already .*\n  hint: --overwrite divides anew"):
        ds.split_data(root)

    done = ds.split_data(root, val=0.25, test=0.25, overwrite=True)

    after = objects(root, ("train", "val", "test"))
    assert merged(after) == merged(before)
    assert {name: len(part) for name, part in after.items()} == {
        name: counts.images for name, counts in done.splits.items()
    }
    assert sum(len(part) for part in after.values()) == 20
    assert after["val"].keys() != before["val"].keys()
    for name, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        assert abs(len(after[name]) - share * 20) <= 2
    assert not list(root.rglob("*.tmp*"))


def test_a_division_again_keeps_the_first_files_and_a_test_split_stays(pictures, tmp_path):
    root = with_boxes(pictures, tmp_path / "coco", "coco")
    file = root / "annotations" / "instances_val.json"
    original = file.read_text()
    ds.split_data(root, val=0.3, test=0.2, overwrite=True)
    first = objects(root, ("train", "val", "test"))
    ds.split_data(root, val=0.5, seed=1, overwrite=True)
    second = objects(root, ("train", "val", "test"))

    assert file.with_name("instances_val.json.old").read_text() == original
    assert second["test"] == first["test"]
    assert second["val"].keys() != first["val"].keys()
    assert merged(first) == merged(second)


def test_ids_that_two_files_both_use_are_numbered_anew(pictures, tmp_path):
    root = with_boxes(pictures, tmp_path / "coco", "coco")
    ds.split_data(root, overwrite=True)

    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    for key in ("images", "annotations"):
        ids = [entry["id"] for entry in content[key]]
        assert len(set(ids)) == len(ids)
    assert {entry["image_id"] for entry in content["annotations"]} <= {entry["id"] for entry in content["images"]}


def test_an_undivided_folder_of_masks_gets_a_table_and_each_image_one_split(pictures, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for file in (pictures / kind / "train").iterdir():
            shutil.copy(file, tmp_path / kind)

    done = ds.split_data(tmp_path, val=0.25)

    assert done.files == [str(tmp_path / "splits.csv")]
    data = open_dataset(tmp_path).data
    parts = {name: {path.name for path in data.read_split(name).paths} for name in ("train", "val")}
    assert not parts["train"] & parts["val"]
    assert len(parts["train"]) + len(parts["val"]) == 14
    assert abs(len(parts["val"]) - 4) <= 1
    with pytest.raises(ConfigError, match="there is a val split already"):
        ds.split_data(tmp_path)
    assert ds.split_data(tmp_path, val=0.5, overwrite=True).splits["val"].images in (6, 7, 8)


def test_masks_in_folders_of_classes_are_divided_by_lists(pictures, tmp_path):
    root = tmp_path / "layers"
    (root / "images").mkdir(parents=True)
    for i, name in enumerate("abcdefgh"):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / "images" / f"{name}.png")
        for layer in ("road", "tree"):
            (root / "masks" / layer).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(root / "masks" / layer / f"{name}.png")
    config = tmp_path / "layers.yaml"
    values = {"task": "segmentation", "name": "x", "model": {}, "data": {"root": str(root), "multilabel": True}}
    config.write_text(yaml.safe_dump(values))

    assert ds.split_data(config, val=0.25).splits["val"].images == 2
    data = open_dataset(config).data
    assert (len(data.read_split("train")), len(data.read_split("val"))) == (6, 2)


def test_volumes_stay_whole_and_patients_together(tmp_path):
    voxels, affine = patient((8, 14, 4))
    labels = (voxels >= 100).astype(np.uint8)
    for name in range(10):
        for visit in "ab":
            place = f"sub-{name:02d}/sub-{name:02d}_{visit}.nii.gz"
            write_nifti(tmp_path / "images" / place, voxels + name + (visit == "b") * 100, affine)
            write_nifti(tmp_path / "masks" / place, labels, affine)

    done = ds.split_data(tmp_path, val=0.2, test=0.2, by="patient")

    assert {name: (counts.images, counts.groups) for name, counts in done.splits.items()} == {
        "train": (12, 6),
        "val": (4, 2),
        "test": (4, 2),
    }
    data = open_dataset(tmp_path).data
    whole = {name: {file_of(path).name[:6] for path in data.read_split(name).paths} for name in done.splits}
    assert sum(len(patients) for patients in whole.values()) == len(set().union(*whole.values())) == 10
    assert sum(len(data.read_split(name)) for name in done.splits) == 20 * 4


def test_series_of_one_patient_stay_together_and_no_name_is_written(tmp_path):
    voxels, affine = stored_as(*patient((8, 14, 4)), "LPS")
    for i in range(8):
        series(tmp_path / "images" / f"scan{i}", voxels + i, affine, PatientID=f"secret-{i // 2}")
        write_nifti(tmp_path / "masks" / f"scan{i}.nii.gz", (voxels > 0).astype(np.uint8), affine)

    done = ds.split_data(tmp_path, val=0.25, by="patient")

    assert done.splits["val"].images == 2
    assert done.splits["val"].groups == 1
    written = json.dumps(done.to_dict()) + (tmp_path / "splits.csv").read_text()
    assert "secret" not in written
    assert not any(text in written for text in SECRETS.values())


def test_groups_and_copies_are_in_no_two_splits(pictures, tmp_path):
    root = with_boxes(pictures, tmp_path / "voc", "voc")
    first = sorted((root / "JPEGImages").iterdir())
    for i in range(0, 10, 2):  # picture 1 is picture 0 again, and so on
        shutil.copy(first[i], first[i + 1])

    done = ds.split_data(root, val=0.3, test=0.2, by="group", group=r"_\d\d(\d\d)", overwrite=True)

    assert done.duplicates == 5
    part_of = {
        name: split for split in done.splits for name in (root / "ImageSets/Main" / f"{split}.txt").read_text().split()
    }
    assert len(part_of) == 20
    for i in range(0, 10, 2):
        assert part_of[first[i].stem] == part_of[first[i + 1].stem]
    for number in range(6):  # of train and of val, which have these numbers both
        assert part_of[f"train_{number:04d}"] == part_of[f"val_{number:04d}"]


def test_tiles_are_divided_by_blocks_with_a_buffer(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(8):
        for j in range(8):
            place = rasterio.Affine(10, 0, 500_000 + 80 * i, 0, -10, 5_700_000 + 80 * j)
            profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 1, "dtype": "uint8"}
            crs = rasterio.CRS.from_epsg(32631)
            with rasterio.open(tmp_path / "images" / f"{i}{j}.tif", "w", crs=crs, transform=place, **profile) as file:
                file.write(rng.integers(0, 255, (1, 8, 8), np.uint8))
            Image.fromarray(rng.integers(0, 2, (8, 8), np.uint8)).save(tmp_path / "masks" / f"{i}{j}.png")

    done = ds.split_data(tmp_path, val=0.25, by="block", block=165, buffer=40)

    data = open_dataset(tmp_path).data
    parts = {name: [path.stem for path in data.read_split(name).paths] for name in ("train", "val")}
    assert len(parts["train"]) + len(parts["val"]) + len(done.set_aside) == 64
    assert 0 < len(done.set_aside) < 40
    apart = [max(abs(int(a[0]) - int(b[0])), abs(int(a[1]) - int(b[1]))) for a in parts["train"] for b in parts["val"]]
    assert min(apart) == 2  # tiles of 80 m: neighbours touch, and are nearer than 40 m
    assert not {name.split("/")[-1][:2] for name in done.set_aside} & {*parts["train"], *parts["val"]}


def test_arguments_that_make_no_sense_are_refused(pictures, tmp_path, tiny_config):
    for options, message in (
        ({"val": 0.8, "test": 0.2}, "leave nothing to train on"),
        ({"by": "colour"}, r"no division by 'colour'\n  hint: by image, group, patient, scene, block"),
        ({"by": "group"}, "go together"),
        ({"group": "(a)"}, "go together"),
        ({"buffer": 5}, "block and buffer are of a division by block"),
        ({"by": "block", "block": -1}, "are metres"),
    ):
        with pytest.raises(ConfigError, match=message):
            ds.split_data(pictures, task="detection", **options)
    config = yaml.safe_load(tiny_config.read_text())
    config["data"]["train"] = {"annotations": "annotations/instances_train.json"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"the config names its splits, and would not see new ones"):
        ds.split_data(tmp_path / "c.yaml")


def test_a_file_of_the_same_name_is_not_overwritten_unasked(pictures, tmp_path):
    root = with_boxes(pictures, tmp_path / "coco", "coco")
    (root / "annotations" / "instances_val.json").unlink()
    text = (root / "annotations" / "instances_train.json").read_text()

    with pytest.raises(ConfigError, match=r"instances_train\.json would be overwritten .*\n  hint: --overwrite"):
        ds.split_data(root)
    assert not (root / "annotations" / "instances_val.json").exists()
    assert (root / "annotations" / "instances_train.json").read_text() == text


def test_layouts_that_lists_cannot_divide_are_refused(pictures, tmp_path):
    root = tmp_path / "voc"
    for split in ("train", "val"):
        detection_formats.write_voc(pictures, root / split, [split])
        for file in [*(root / split / "Annotations").iterdir(), *(root / split / "JPEGImages").iterdir()]:
            file.rename(root / split / file.name)
        for folder in ("ImageSets", "Annotations", "JPEGImages"):
            shutil.rmtree(root / split / folder)

    with pytest.raises(DataError, match=r"where all XML files lie in Annotations/ .*\n  hint: .*data convert"):
        ds.split_data(root, overwrite=True)

    for i in range(3):
        place = rasterio.Affine(10, 0, 500_000 + 80 * i, 0, -10, 5_700_000)
        profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 1, "dtype": "uint8", "transform": place}
        (tmp_path / "geo" / "images").mkdir(parents=True, exist_ok=True)
        with rasterio.open(tmp_path / "geo" / "images" / f"{i}.tif", "w", crs="EPSG:32631", **profile) as file:
            file.write(np.full((1, 8, 8), i, np.uint8))
    (tmp_path / "geo" / "labels").mkdir()
    ring = [[500_010, 5_699_990], [500_030, 5_699_990], [500_030, 5_699_930], [500_010, 5_699_990]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    (tmp_path / "geo" / "labels" / "0.geojson").write_text(json.dumps(shape))
    with pytest.raises(DataError, match=r"GeoJSON labels are divided by folders, which are not made here"):
        ds.split_data(tmp_path / "geo", task="segmentation")


def test_the_command_prints_a_table(pictures, tmp_path):
    root = with_boxes(pictures, tmp_path / "coco", "coco")
    runner = typer.testing.CliRunner()
    done = runner.invoke(app, ["data", "split", str(root), "--val", "0.25", "--overwrite"])

    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("taken for: COCO, as there is ")
    assert lines[2].split() == ["train", "val"]
    assert lines[3].split() == ["images", "15", "(75", "%)", "5", "(25", "%)"]
    assert [line.split()[0] for line in lines[4:9]] == ["groups", *open_dataset(root).data.classes.names]
    assert lines[-1].startswith("written: ")
    as_json = runner.invoke(app, ["data", "split", str(root), "--overwrite", "--json", "--seed", "3"])
    assert json.loads(as_json.output)["splits"]["val"]["images"] == 4

"""Two sets of labelled pictures with one fault of each kind planted into them, and what a check calls each."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from densenet_suite.synthetic import MASK_CLASSES

# fault -> (the split it is in, what the check calls it)
BOX_FAULTS = {
    "an annotation id is used twice": ("train", "annotation-id-twice"),
    "an annotation is of no image": ("train", "annotation-without-image"),
    "an annotation is of no category": ("train", "category-unknown"),
    "a box is three numbers": ("train", "box-format"),
    "a box holds NaN": ("train", "box-not-finite"),
    "a box has a negative width": ("train", "box-negative"),
    "a box has no area": ("train", "box-without-area"),
    "a box lies outside": ("train", "box-outside"),
    "a box sticks out": ("train", "box-clipped"),
    "a box is there twice": ("train", "box-twice"),
    "two boxes are on one object": ("train", "box-double"),
    "a box is thinner than a pixel": ("train", "box-tiny"),
    "an image has more than 100 objects": ("train", "many-objects"),
    "objects are too small for the anchors": ("train", "few-anchors"),
    "x and y are exchanged": ("test", "boxes-swapped"),
    "an image id is used twice": ("train", "image-id-twice"),
    "a file name leads out of the folder": ("train", "file-outside"),
    "an image is missing": ("train", "image-missing"),
    "an image has another size than stated": ("train", "image-size-wrong"),
    "an image is cut off": ("train", "image-damaged"),
    "an image is of one colour": ("train", "image-plain"),
    "an image has transparent pixels": ("train", "image-transparent"),
    "an image is turned by EXIF": ("train", "image-turned"),
    "an image is listed nowhere": ("dataset", "image-unlisted"),
    "an image is there twice": ("train", "image-copied"),
    "two copies are labelled differently": ("train", "copies-labelled-differently"),
    "an image is in two splits": ("val", "image-in-two-splits"),
    "an image is in another split, saved anew": ("val", "image-nearly-in-two-splits"),
    "a class has no object": ("train", "class-empty"),
    "a class is in val only": ("val", "class-not-in-train"),
    "classes have another order in val": ("val", "class-order"),
}
MASK_FAULTS = {
    "an image has no mask": ("train", "mask-missing"),
    "a mask has no image": ("train", "mask-without-image"),
    "a mask has another size": ("train", "mask-size"),
    "a mask holds a value of no class": ("train", "mask-values"),
    "a mask is a JPEG": ("train", "mask-lossy"),
    "a mask is in colours": ("train", "mask-coloured"),
    "a mask is cut off": ("train", "mask-unusable"),
    "a mask says nothing": ("train", "mask-only-ignored"),
    "a mask has a palette": ("train", "mask-palette"),
    "an image file is empty": ("train", "image-unusable"),
    "an image has 16 bits among 8": ("train", "depths-differ"),
    "a class has no pixel": ("train", "class-absent"),
    "a class is in val only": ("val", "class-not-in-train"),
    "a class is thinner than a pixel of the network": ("train", "class-thin"),
    "an image is smaller than the crop": ("train", "image-smaller-than-crop"),
}


def plant_box_faults(root: Path) -> None:
    """Plant `BOX_FAULTS` into a synthetic set of 24, 6 and 3 pictures of 128x192 (height x width)."""
    path = root / "annotations" / "instances_train.json"
    train = json.loads(path.read_text())
    pictures = root / "images" / "train"
    _plant_boxes(train, root)
    _plant_pictures(train, pictures)
    train["categories"] += [{"id": 5, "name": "hexagon"}, {"id": 6, "name": "ring"}]
    path.write_text(json.dumps(train))

    path = root / "annotations" / "instances_val.json"
    val = json.loads(path.read_text())
    folder = root / "images" / "val"
    (folder / "val_0000.jpg").write_bytes((pictures / "train_0020.jpg").read_bytes())
    with Image.open(pictures / "train_0021.jpg") as picture:
        ImageEnhance.Brightness(picture.resize((192, 128))).enhance(1.1).save(folder / "val_0001.jpg", quality=60)
    val["categories"] = [{"id": 6, "name": "ring"}, *val["categories"], {"id": 5, "name": "hexagon"}]
    val["categories"][1]["id"], val["categories"][2]["id"] = 2, 1
    val["annotations"].append(_box(9000, 3, 6, [20, 20, 60, 60]))
    path.write_text(json.dumps(val))

    path = root / "annotations" / "instances_test.json"
    test = json.loads(path.read_text())
    for annotation in test["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [y, x, height, width]
    path.write_text(json.dumps(test))


def _box(key: int, image: int, category: int, box: list[float]) -> dict:
    return {"id": key, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}


def _plant_boxes(train: dict, root: Path) -> None:
    nan = float("nan")
    boxes = [
        _box(1, 2, 1, [4, 4, 50, 50]),
        _box(1001, 777, 1, [4, 4, 50, 50]),
        _box(1002, 2, 99, [4, 4, 50, 50]),
        _box(1003, 2, 1, [4, 4, 50]),
        _box(1004, 2, 1, [4, 4, nan, 50]),
        _box(1005, 2, 1, [100, 50, -50, 50]),
        _box(1006, 2, 1, [4, 4, 0, 50]),
        _box(1007, 2, 1, [400, 4, 50, 50]),
        _box(1008, 2, 2, [150, 100, 60, 60]),
        _box(1009, 3, 3, [10, 10, 60, 60]),
        _box(1010, 3, 3, [10, 10, 60, 60]),
        _box(1011, 4, 4, [10, 10, 60, 60]),
        _box(1012, 4, 4, [11, 11, 60, 60]),
        _box(1013, 4, 4, [90, 10, 0.5, 60]),
    ]
    dots = [_box(2000 + i, 5, 1 + i % 4, [4 + 15 * (i % 12), 4 + 12 * (i // 12), 4, 4]) for i in range(101)]
    train["annotations"] += boxes + dots


def _plant_pictures(train: dict, folder: Path) -> None:
    images = {image["id"]: image for image in train["images"]}
    train["images"] += [
        {**images[7], "id": 7},
        {**images[7], "id": 500, "file_name": "../../outside.jpg"},
        {**images[7], "id": 501, "file_name": "gone.jpg"},
    ]
    images[8]["width"] = 500
    cut = folder / images[9]["file_name"]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    Image.new("RGB", (192, 128), (90, 120, 30)).save(folder / images[10]["file_name"])
    images[11]["file_name"] = "glass.png"
    with Image.open(folder / "train_0010.jpg") as picture:
        glass = picture.convert("RGBA")
    glass.putalpha(Image.linear_gradient("L").resize(glass.size))
    glass.save(folder / "glass.png")  # and so train_0010.jpg is listed nowhere
    turned = folder / images[12]["file_name"]
    with Image.open(turned) as picture:
        exif = Image.Exif()
        exif[0x0112] = 3
        picture.save(turned, exif=exif)
    copy = folder / images[14]["file_name"]
    copy.write_bytes((folder / images[13]["file_name"]).read_bytes())


def plant_mask_faults(root: Path) -> dict:
    """Plant `MASK_FAULTS` into the same synthetic set; return the class table."""
    images, masks = root / "images" / "train", root / "masks" / "train"
    (masks / "train_0000.png").unlink()
    _mask(np.zeros((128, 192)), masks / "of_nothing.png")
    _mask(np.zeros((64, 96)), masks / "train_0001.png")
    _mask(np.full((128, 192), 77), masks / "train_0002.png")
    with Image.open(masks / "train_0003.png") as mask:
        mask.convert("L").save(masks / "train_0003.jpg")
    (masks / "train_0003.png").unlink()
    Image.new("RGB", (192, 128), (10, 200, 30)).save(masks / "train_0004.png")
    cut = masks / "train_0005.png"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    _mask(np.full((128, 192), 255), masks / "train_0006.png")
    with Image.open(masks / "train_0007.png") as mask:
        coloured = Image.fromarray(np.asarray(mask), "P") if mask.mode != "P" else mask.copy()
        coloured.putpalette([0, 0, 0, 200, 30, 30, 30, 200, 30, 30, 30, 200, 99, 99, 99] + [0] * 753)
        coloured.save(masks / "train_0007.png")
    (images / "train_0008.jpg").write_bytes(b"")
    deep = np.random.default_rng(0).integers(0, 60000, (128, 192)).astype(np.uint16)
    (images / "train_0009.jpg").unlink()
    Image.fromarray(deep).save(images / "train_0009.png")
    lines = np.zeros((128, 192))
    lines[::16] = 6
    _mask(lines, masks / "train_0010.png")
    with Image.open(images / "train_0011.jpg") as picture:
        picture.resize((48, 40)).save(images / "train_0011.jpg")
    _mask(np.zeros((40, 48)), masks / "train_0011.png")
    ring = np.zeros((128, 192))
    ring[20:60, 20:60] = 7
    _mask(ring, root / "masks" / "val" / "val_0000.png")
    return {**MASK_CLASSES, "nothing": 5, "line": 6, "ring": 7}


def _mask(values: np.ndarray, path: Path) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path)

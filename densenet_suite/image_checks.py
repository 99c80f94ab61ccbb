"""What pictures show once they are decoded: damage, depth, transparency, and pictures that are there twice.

A picture is decoded to its last byte, for JPEGs at an eighth of the size, which leaves out only arithmetic. Slices of
volumes are decoded too; that one is blank, or like its neighbour, is usual and not told.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from densenet_suite.archives.members import open_binary
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.geo.footprints import footprint, overlaps
from densenet_suite.image_opening import ImageRecord, open_image, read_header
from densenet_suite.picture_likeness import SIDE, Likeness, near_copies
from densenet_suite.rasters import is_raster, open_raster, read_thumbnail
from densenet_suite.tiles import Window

Array = np.ndarray[Any, Any]
Place = tuple[str, int]  # a split, and the number of an image in it

DECODED_AT_MOST = 5_000
_READERS = 8
_HUGE = 25_000_000  # pixels


@dataclass(frozen=True)
class Picture:
    """What decoding a picture showed.

    Attributes:
        record: what its header says.
        digest: of the file's bytes, or of a slice's pixels.
        likeness: to other pictures.
        alpha: whether there is an alpha channel, and whether it hides anything.
        corners: where a georeferenced raster lies, see `geo.footprints`.
        of_volume: whether it is a slice of a volume.
    """

    record: ImageRecord
    digest: bytes
    likeness: Likeness
    alpha: tuple[bool, bool] = (False, False)
    corners: Array | None = None
    of_volume: bool = False


def check_images(
    paths: Mapping[str, Sequence[Path]],
    findings: Mapping[str, Findings],
    same_labels: Callable[[Place, Place], bool],
    limit: int = DECODED_AT_MOST,
) -> dict[str, Any]:
    """Decode the pictures of a dataset and add what they show to the findings of their splits.

    Args:
        paths: of each split.
        findings: of each split.
        same_labels: says whether two pictures have the same labels.
        limit: how many are decoded; of more, as many, evenly spread.

    Returns:
        plain values: the number of pictures, and of those that were decoded.
    """
    chosen = _choose(paths, limit)
    pictures: dict[Place, Picture] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda place: _try(paths[place[0]][place[1]]), chosen)
        for place, picture in zip(chosen, found, strict=True):
            if isinstance(picture, DataError):
                findings[place[0]].record(picture, "image-damaged")
            elif not (picture.of_volume and picture.likeness.plain):  # air, of which there is much
                pictures[place] = picture
    for name in paths:
        mine = {paths[name][place[1]]: picture for place, picture in pictures.items() if place[0] == name}
        _note_kinds(mine, findings[name])
    _note_copies(pictures, paths, findings, same_labels)
    _note_near_copies(pictures, paths, findings)
    _note_shared_ground(pictures, paths, findings)
    return {"images": sum(map(len, paths.values())), "decoded": len(chosen)}


def look_at(path: Path) -> Picture:
    """Decode a picture and say what it shows.

    Raises:
        DataError: it cannot be decoded to its end.
        MissingExtraError: that takes a package which is not installed.
    """
    return _look_at_raster(path) if is_raster(path) else _look_at_picture(path)


def _look_at_raster(path: Path) -> Picture:
    with open_raster(path) as raster:
        height, width = size = raster.record.height, raster.record.width
        grey = read_thumbnail(raster, max(1, min(size) // SIDE)).astype(np.float32).mean(2)
        # reflectances have no unit, and may all be below one
        likeness = Likeness.of(grey, 1.0 if raster.record.dtype == "uint8" else 1e-5 * float(abs(grey).max()))
        of_volume = raster.slice is not None
        content = raster.read(Window(0, 0, height, width)).values.tobytes() if of_volume else _bytes_of(path)
        corners = footprint(raster.georeference, size)
    return Picture(raster.record, _digest(content), likeness, corners=corners, of_volume=of_volume)


def _look_at_picture(path: Path) -> Picture:
    record = read_header(path)
    with open_image(path) as image:
        image.draft("RGB", (4 * SIDE, 4 * SIDE))  # at least this size, and only of JPEGs
        image.load()
        return Picture(record, _digest(_bytes_of(path)), Likeness.of(_grey(image)), _alpha(image))


def _bytes_of(path: Path) -> bytes:
    with open_binary(path) as file:
        return file.read()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _choose(paths: Mapping[str, Sequence[Path]], limit: int) -> list[Place]:
    places = [(name, i) for name, listed in paths.items() for i in range(len(listed))]
    if len(places) <= limit:
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, limit).astype(int)]


def _try(path: Path) -> Picture | DataError:
    try:
        return look_at(path)
    except DataError as error:
        return error


def _grey(image: Image.Image) -> Array:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.float32)
    return np.asarray(ImageOps.exif_transpose(image).convert("L")).astype(np.float32)


def _alpha(image: Image.Image) -> tuple[bool, bool]:
    """Say whether a picture has an alpha channel, and whether that hides anything."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False, False
    channel = image.convert("RGBA").getchannel("A")
    return True, channel.getextrema() != (255, 255)


def _note_kinds(pictures: Mapping[Path, Picture], findings: Findings) -> None:
    def named(check: Callable[[Picture], bool]) -> list[str]:
        return [path.name for path, picture in pictures.items() if check(picture)]

    turned = named(lambda picture: picture.record.orientation != 1)
    if "image-turned" not in findings:  # some readers have said so
        findings.several(
            "note",
            "image-turned",
            len(turned),
            [f"image {name} is turned by its EXIF orientation" for name in turned],
            "labels must be those of the upright picture",
        )
    hiding = named(lambda picture: picture.alpha[1])
    findings.several(
        "warning",
        "image-transparent",
        len(hiding),
        [f"image {name} has transparent pixels" for name in hiding],
        "transparency is dropped, and the colours below it are seen: paint them over where that matters",
    )
    opaque = named(lambda picture: picture.alpha == (True, False))
    findings.several(
        "note",
        "image-alpha",
        len(opaque),
        [f"image {name} has an alpha channel that hides nothing; it is dropped" for name in opaque],
    )
    grey = named(lambda picture: picture.record.bands == 1)
    if 0 < len(grey) < len(pictures):
        findings.several(
            "note",
            "image-grey",
            len(grey),
            [f"image {name} is grey among colours" for name in grey],
            "its grey is repeated for each colour",
        )
    huge = named(lambda picture: picture.record.height * picture.record.width > _HUGE)
    findings.several(
        "note",
        "image-huge",
        len(huge),
        [f"image {name} has more than {_HUGE // 10**6} million pixels" for name in huge],
        "reading it costs much of the time: cut it into tiles",
    )
    plain = named(lambda picture: picture.likeness.plain)
    findings.several(
        "warning",
        "image-plain",
        len(plain),
        [f"image {name} is of one colour" for name in plain],
        "is it a placeholder of a picture that could not be loaded?",
    )


def _note_copies(
    pictures: Mapping[Place, Picture],
    paths: Mapping[str, Sequence[Path]],
    findings: Mapping[str, Findings],
    same_labels: Callable[[Place, Place], bool],
) -> None:
    first: dict[bytes, Place] = {}
    for place, picture in pictures.items():
        other = first.setdefault(picture.digest, place)
        if other == place:
            continue
        name = place[0]
        what = f"image {paths[name][place[1]].name} is the same picture as {_other_name(place, other, paths)}"
        if name != other[0]:
            findings[name].warning(
                "image-in-two-splits", what, "take it out of one of them: its score will be too good"
            )
        else:
            findings[name].warning("image-copied", what, "it is learned twice as often as others")
        if not same_labels(place, other):
            findings[name].warning(
                "copies-labelled-differently", f"{what}, and is labelled differently", "one of the two is wrong"
            )


def _note_near_copies(
    pictures: Mapping[Place, Picture], paths: Mapping[str, Sequence[Path]], findings: Mapping[str, Findings]
) -> None:
    """Compare the pictures of later splits with those of earlier ones; slices are alike wherever bodies are."""
    comparable = {p: picture for p, picture in pictures.items() if not (picture.likeness.plain or picture.of_volume)}
    seen: list[Place] = []
    for name in paths:
        mine = [place for place in comparable if place[0] == name]
        copied = {pictures[place].digest for place in seen}
        new = [place for place in mine if pictures[place].digest not in copied]
        likenesses = ([pictures[place].likeness for place in places] for places in (new, seen))
        for i, j, alike in near_copies(*likenesses):
            findings[name].warning(
                "image-nearly-in-two-splits",
                f"image {paths[name][new[i][1]].name} is nearly the same as {_other_name(new[i], seen[j], paths)} "
                f"({100 * alike:.1f} % alike)",
                "pictures of one scene in two splits make its score too good: densenet-suite data split parts scenes",
            )
        seen += mine


def _note_shared_ground(
    pictures: Mapping[Place, Picture], paths: Mapping[str, Sequence[Path]], findings: Mapping[str, Findings]
) -> None:
    """Find rasters that show the ground of another split's; the same picture twice has been told before."""
    earlier: list[Place] = []
    for name in paths:
        mine = [place for place, picture in pictures.items() if place[0] == name and picture.corners is not None]
        theirs = np.array([pictures[place].corners for place in earlier]).reshape(-1, 4, 2)
        copied = {pictures[place].digest for place in earlier}
        for place in mine:
            corners = pictures[place].corners
            assert corners is not None
            depths = overlaps(corners, theirs)
            if not depths.any() or pictures[place].digest in copied:
                continue
            other = earlier[int(depths.argmax())]
            findings[name].warning(
                "ground-in-two-splits",
                f"image {paths[name][place[1]].name} shows ground of {_other_name(place, other, paths)}: "
                f"they overlap by {depths.max():,.0f} m",
                "its score will be too good: densenet-suite data split --by block divides the ground",
            )
        earlier += mine


def _other_name(place: Place, other: Place, paths: Mapping[str, Sequence[Path]]) -> str:
    name = paths[other[0]][other[1]].name
    return name if place[0] == other[0] else f"{name} of the {other[0]} split"

"""What pictures show once they are decoded: damage, depth, transparency, and pictures that are there twice.

A picture is decoded to its last byte, for JPEGs at an eighth of the size, which leaves out only arithmetic. Pictures
that are nearly the same are found by a perceptual hash of 64 bits (the signs of the lowest frequencies: Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010) and held against each other as thumbnails,
since flat pictures have similar hashes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from densenet_suite.archives.members import open_binary
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.images import open_image, read_header
from densenet_suite.rasters import Raster, open_raster, read_thumbnail

Array = np.ndarray[Any, Any]
Place = tuple[str, int]  # a split, and the number of an image in it

DECODED_AT_MOST = 5_000
_READERS = 8
_SIDE = 32  # of the thumbnail
_RASTERS = (".tif", ".tiff")
_MOST_BITS = 8  # that the hashes of pictures which are nearly the same differ in
_LEAST_CORRELATION = 0.95  # of their thumbnails; other pictures of one scene stay below 0.9
_HUGE = 25_000_000  # pixels
_AT_ONCE = 2_000_000  # hashes that are compared at a time
_SHOWN = 10


@dataclass(frozen=True)
class Picture:
    """What decoding a picture showed.

    Attributes:
        digest: of the file's bytes.
        bits: the perceptual hash.
        thumbnail: grey, [32 32] float32, of mean 0 and length 1; zero where the picture is of one colour.
        orientation: of the EXIF data.
        bands: of the file.
        pixels: height times width.
        alpha: whether there is an alpha channel, and whether it hides anything.
        footprint: of a georeferenced raster, its reference system and bounds, xyxy.
    """

    digest: bytes
    bits: int
    thumbnail: Array
    orientation: int
    bands: int
    pixels: int
    alpha: tuple[bool, bool] = (False, False)
    footprint: tuple[str, tuple[float, float, float, float]] | None = None


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
            else:
                pictures[place] = picture
    for name in paths:
        mine = {paths[name][place[1]]: picture for place, picture in pictures.items() if place[0] == name}
        _note_kinds(mine, findings[name])
    _note_copies(pictures, paths, findings, same_labels)
    _note_near_copies(pictures, paths, findings)
    _note_footprints(pictures, paths, findings)
    return {"images": sum(map(len, paths.values())), "decoded": len(chosen)}


def _content(path: Path) -> bytes:
    try:
        with open_binary(path) as file:
            return file.read()
    except OSError:  # opening the picture says what is wrong with it
        return b""


def look_at(path: Path) -> Picture:
    """Decode a picture and say what it shows.

    Raises:
        DataError: it cannot be decoded to its end.
    """
    digest = hashlib.blake2b(_content(path), digest_size=16).digest()
    alpha, footprint = (False, False), None
    if path.suffix.lower() in _RASTERS:
        with open_raster(path) as raster:
            record = raster.record
            footprint = _footprint(raster)
            step = max(1, min(record.height, record.width) // _SIDE)
            grey = read_thumbnail(raster, step).astype(np.float32).mean(2)
    else:
        record = read_header(path)
        with open_image(path) as image:
            image.draft("RGB", (4 * _SIDE, 4 * _SIDE))  # at least this size, and only of JPEGs
            image.load()
            alpha = _alpha(image)
            grey = _grey(image)
    thumbnail = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return Picture(
        digest=digest,
        bits=perceptual_hash(thumbnail),
        thumbnail=_normalised(thumbnail),
        orientation=record.orientation,
        bands=record.bands,
        pixels=record.height * record.width,
        alpha=alpha,
        footprint=footprint,
    )


def perceptual_hash(thumbnail: Array) -> int:
    """Return 64 bits of a grey picture [32 32]: which of its lowest frequencies are above their median."""
    low = cv2.dct(np.asarray(thumbnail, np.float32))[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    bits[0] = False  # brightness alone makes no difference
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_distances(first: Array, second: Array) -> Array:
    """Return in how many bits hashes [n] and [m], uint64, differ: [n m]."""
    different = first[:, None] ^ second[None]
    parts = different.view(np.uint16).reshape(*different.shape, 4)
    return np.asarray(_BITS_OF[parts].sum(-1, dtype=np.uint8))


_BITS_OF = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


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


def _footprint(raster: Raster) -> tuple[str, tuple[float, float, float, float]] | None:
    place, record = raster.georeference, raster.record
    if place is None or place.crs is None or place.points:
        return None
    at = place.transform
    corners = [(column, row) for column in (0, record.width) for row in (0, record.height)]
    x = [at.c + at.a * column + at.b * row for column, row in corners]
    y = [at.f + at.d * column + at.e * row for column, row in corners]
    return place.crs.to_wkt(), (min(x), min(y), max(x), max(y))


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


def _normalised(thumbnail: Array) -> Array:
    centred = (thumbnail - thumbnail.mean()).astype(np.float32)
    length = float(np.linalg.norm(centred))
    return centred / length if length > _SIDE else np.zeros_like(centred)  # a deviation of one grey level


def _note_kinds(pictures: Mapping[Path, Picture], findings: Findings) -> None:
    def named(check: Callable[[Picture], bool]) -> list[str]:
        return [path.name for path, picture in pictures.items() if check(picture)]

    turned = named(lambda picture: picture.orientation != 1)
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
    grey = named(lambda picture: picture.bands == 1)
    if 0 < len(grey) < len(pictures):
        findings.several(
            "note",
            "image-grey",
            len(grey),
            [f"image {name} is grey among colours" for name in grey],
            "its grey is repeated for each colour",
        )
    huge = named(lambda picture: picture.pixels > _HUGE)
    findings.several(
        "note",
        "image-huge",
        len(huge),
        [f"image {name} has more than {_HUGE // 10**6} million pixels" for name in huge],
        "reading it costs much of the time: cut it into tiles",
    )
    plain = named(lambda picture: not picture.thumbnail.any())
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
    """Compare the pictures of later splits with those of earlier ones."""
    names = list(paths)
    seen: list[Place] = []
    for name in names:
        mine = [place for place, picture in pictures.items() if place[0] == name and picture.thumbnail.any()]
        copied = {pictures[place].digest for place in seen}
        new = [place for place in mine if pictures[place].digest not in copied]
        for place, other, likeness in _near(new, seen, pictures):
            findings[name].warning(
                "image-nearly-in-two-splits",
                f"image {paths[name][place[1]].name} is nearly the same as {_other_name(place, other, paths)} "
                f"({100 * likeness:.1f} % alike)",
                "pictures of one scene in two splits make its score too good: densenet-suite data split parts scenes",
            )
        seen += mine


def _near(
    new: Sequence[Place], seen: Sequence[Place], pictures: Mapping[Place, Picture]
) -> Iterator[tuple[Place, Place, float]]:
    """Yield each new picture that is nearly one that was seen, with the one that is most alike."""
    if not new or not seen:
        return
    known = np.array([pictures[place].bits for place in seen], np.uint64)
    step = max(1, _AT_ONCE // len(known))
    for start in range(0, len(new), step):
        part = new[start : start + step]
        near = hash_distances(np.array([pictures[place].bits for place in part], np.uint64), known) <= _MOST_BITS
        for row in np.flatnonzero(near.any(1)).tolist():
            thumbnail = pictures[part[row]].thumbnail
            candidates = np.flatnonzero(near[row]).tolist()
            likeness = [float((pictures[seen[i]].thumbnail * thumbnail).sum()) for i in candidates]
            best = int(np.argmax(likeness))
            if likeness[best] >= _LEAST_CORRELATION:
                yield part[row], seen[candidates[best]], likeness[best]


def _note_footprints(
    pictures: Mapping[Place, Picture], paths: Mapping[str, Sequence[Path]], findings: Mapping[str, Findings]
) -> None:
    """Find rasters that show the ground of another split's; the same picture twice has been told before."""
    placed = [(place, picture, *picture.footprint) for place, picture in pictures.items() if picture.footprint]
    for system in {entry[2] for entry in placed}:
        mine = [entry for entry in placed if entry[2] == system]
        bounds = np.array([entry[3] for entry in mine])
        for i, (place, picture, _, own) in enumerate(mine):
            sides = np.minimum(bounds[:i, 2:], own[2:]) - np.maximum(bounds[:i, :2], own[:2])
            for j in np.flatnonzero((sides > 0).all(1)).tolist():
                other, twin = mine[j][:2]
                if other[0] == place[0] or twin.digest == picture.digest:
                    continue
                share = np.prod(sides[j]) / max(np.prod(bounds[i, 2:] - bounds[i, :2]), 1e-12)
                findings[place[0]].warning(
                    "ground-in-two-splits",
                    f"image {paths[place[0]][place[1]].name} shows ground of {_other_name(place, other, paths)} "
                    f"({100 * share:.1f} % of it)",
                    "its score will be too good: divide the splits in space",
                )
                break


def _other_name(place: Place, other: Place, paths: Mapping[str, Sequence[Path]]) -> str:
    name = paths[other[0]][other[1]].name
    return name if place[0] == other[0] else f"{name} of the {other[0]} split"

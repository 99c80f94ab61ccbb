"""Pascal VOC annotations: an XML file for each picture.

Corners in the files are whole pixels counted from 1, and the last one belongs to the object: x from `xmin` to `xmax`
covers the pixels xmin..xmax. Here they become edges counted from 0, so (xmin, ymin, xmax, ymax) is the box
(xmin - 1, ymin - 1, xmax, ymax), and xmin = xmax is one pixel wide. Tools that count from 0 (older labelImg, most
converters) differ from this by a pixel at the upper left, which nothing in their files tells.

Objects marked `difficult` are treated as crowd regions are: training leaves them out, evaluation forgives detections on
them and does not miss them. `truncated`, `occluded`, `pose` and parts are not read.

Reference: Everingham et al., The PASCAL Visual Object Classes Challenge (VOC2012) Development Kit, section 2.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from densenet_suite.detection.annotation_checks import (
    ListedBox,
    ListedImage,
    assemble,
    check_headers,
    image_files,
    read_annotation_text,
    stays_inside,
    to_number,
)
from densenet_suite.detection.coordinates import count_from_zero
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings

_XML_BYTES = 16_777_216  # some thirty thousand objects in one picture
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    name: str,
    annotations: Path | str,
    images: Path | str,
    classes: ClassTable | None = None,
    names: Path | str | None = None,
    findings: Findings | None = None,
) -> DetectionSet:
    """Read a split in Pascal VOC format.

    Args:
        name: of the split.
        annotations: the folder of XML files.
        images: the folder of pictures. That of an XML file has its name, or else the one that it gives as `filename`.
        classes: those of the training split or the model, matched by name; None for the names that occur, sorted.
        names: a list (ImageSets/Main/<split>.txt) of the XML files that are meant, without ending; None for all.
            Without a list, a picture that has no XML file is left out and counted.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: files cannot be read, or hold faults that would make a run wrong: all kinds at once.
    """
    annotations, images = Path(annotations), Path(images)
    where = annotations if names is None else Path(names)
    findings = findings or Findings(str(where))
    keys = _all(annotations) if names is None else _listed(Path(names), findings)
    pictures: dict[str, list[Path]] = {}
    for path in image_files(images):
        pictures.setdefault(path.relative_to(images).with_suffix("").as_posix(), []).append(path)
    listed = _read_files(keys, annotations, images, pictures, findings)
    if names is None:
        read = {image.path for image, _ in listed}
        for path in (path for paths in pictures.values() for path in paths if path not in read):
            findings.warning("image-without-annotation", f"{path.name} has no XML file in {annotations}; left out")
    check_headers([image for image, _ in listed], findings)
    findings.raise_errors()
    return assemble(name, where, listed, classes, None, findings)


def _read_files(
    keys: Iterable[str], annotations: Path, images: Path, pictures: Mapping[str, Sequence[Path]], findings: Findings
) -> list[tuple[ListedImage, list[ListedBox]]]:
    """Return the pictures of XML files, given by their names without ending, with what is on them."""
    listed: list[tuple[ListedImage, list[ListedBox]]] = []
    taken: dict[Path, str] = {}
    for key in keys:
        file = annotations / f"{key}.xml"
        try:
            root = _parse(file)
        except DataError as error:
            (problem,) = error.problems
            findings.error("annotation-file", f"{problem.what}: {problem.where}", problem.hint)
            continue
        picture = _picture(root, images, pictures.get(key, []))
        if picture is None:
            findings.error(
                "image-missing",
                f"{file.name}: there is no picture of this name in {images}",
                "say where the pictures are: data.train.images=... (or val, test)",
            )
        elif picture in taken:
            findings.error("image-twice", f"{file.name} and {taken[picture]} are both of the picture {picture.name}")
        else:
            taken[picture] = file.name
            image = ListedImage(len(listed) + 1, picture, file.name, _stated_size(root))
            listed.append((image, _read_objects(root, file.name, findings)))
    return listed


def _listed(names: Path, findings: Findings) -> list[str]:
    lines = [line.strip() for line in read_annotation_text(names).split("\n")]
    keys = [line for line in lines if line]
    for number, line in enumerate(lines, start=1):
        if not stays_inside(line):
            findings.error("file-outside", f"line {number}: {line!r} leads out of the folder of annotations")
    counts = Counter(key for key in keys if stays_inside(key))
    for key in (key for key, count in counts.items() if count > 1):
        findings.warning("image-listed-twice", f"{key} is listed twice and read once")
    return list(counts)


def _all(annotations: Path) -> list[str]:
    files = [path for path in annotations.rglob("*.xml") if not path.name.startswith(".")]
    return sorted(path.relative_to(annotations).with_suffix("").as_posix() for path in files)


def _parse(file: Path) -> Element:
    """Return the tree of a file, each element with its line as only attribute.

    Raises:
        DataError: it cannot be read, is no XML, or declares a document type, and with it entities.
    """
    text = read_annotation_text(file, _XML_BYTES)
    builder = TreeBuilder()
    parser = expat.ParserCreate("utf-8")

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {"line": str(parser.CurrentLineNumber)})

    def refuse(*declaration: object) -> None:
        raise DataError(
            "annotation file declares a document type, by which XML can name other files or grow without end",
            where=f"{file}:{parser.CurrentLineNumber}",
            hint="take the line <!DOCTYPE ...> out",
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise DataError(
            f"annotation file is not valid XML: {expat.ErrorString(error.code)}",
            where=f"{file}:{error.lineno}:{error.offset + 1}",
            hint="the file is cut off or was edited by hand; export it again",
        ) from None
    root = builder.close()
    if root.tag != "annotation":
        raise DataError(f"annotation file holds <{root.tag}>, not <annotation>", where=str(file))
    return root


def _picture(root: Element, images: Path, same_name: Sequence[Path]) -> Path | None:
    """Return the picture of an annotation: that of the same name, before the one that the file gives."""
    given = (root.findtext("filename") or "").strip()
    named = images / given if given and "\0" not in given and stays_inside(given) else None
    if len(same_name) == 1:
        return same_name[0]
    try:
        return named if named is not None and named.is_file() else None
    except OSError:  # such as a name that is too long
        return None


def _stated_size(root: Element) -> tuple[int | None, int | None]:
    """Return height and width as far as they are given; labelling tools write 0 where they do not know them."""
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    height, width = (int(side) if side.isdecimal() and len(side) < 9 and int(side) > 0 else None for side in sides)
    return height, width


def _read_objects(root: Element, file: str, findings: Findings) -> list[ListedBox]:
    boxes = []
    for element in root.findall("object"):
        place = f"{file}:{element.get('line')}"
        name = (element.findtext("name") or "").strip()
        if not name:
            findings.error("class-missing", f"{place}: the object has no name")
            continue
        texts = [(element.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
        numbers = [number for text in texts if (number := to_number(text)) is not None]
        if len(numbers) != 4:
            findings.error(
                "box-format",
                f"{place}: bndbox is {texts}, not four numbers",
                "xmin, ymin, xmax and ymax are needed; polygons and rotated boxes are not read",
            )
            continue
        x1, y1 = (count_from_zero(text) for text in texts[:2])
        x2, y2 = numbers[2:]
        difficult = (element.findtext("difficult") or "").strip() not in ("", "0")
        boxes.append(ListedBox(name, (x1, y1, x2, y2), f"{place}: bndbox {numbers}", difficult))
    return boxes

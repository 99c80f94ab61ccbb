"""Headers of a split's pictures, read in threads before any picture is decoded."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.image_opening import DamagedImageError, ImageRecord

_READERS = 8


def read_headers(
    paths: Sequence[Path],
    read: Callable[[Path], ImageRecord],
    findings: Findings,
    places: Sequence[str] | None = None,
) -> list[ImageRecord | None]:
    """Read the header of each picture; None for one that cannot be used.

    Args:
        paths: of the pictures.
        read: reads one; raises a DataError where it cannot be used.
        findings: takes the faults: of damaged pictures, where these may be left out, as such, up to their limit.
        places: where each picture is named; None where nothing but its folder names it.
    """

    def header(path: Path) -> ImageRecord | DataError:
        try:
            return read(path)
        except DataError as error:
            return error

    images = len(paths) + len(findings.damaged)
    records: list[ImageRecord | None] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for i, found in enumerate(pool.map(header, paths)):
            if isinstance(found, ImageRecord):
                records.append(found)
                continue
            records.append(None)
            problem = found.problems[0]
            if isinstance(found, DamagedImageError) and findings.skip_damaged:
                findings.leave_out(paths[i], problem.what)
                continue
            check = "image-missing" if "does not exist" in problem.what else "image-unusable"
            place = f" ({places[i]})" if places else ""
            findings.error(check, f"{problem.what}: {paths[i]}{place}", problem.hint)
    findings.check_damaged(images)
    return records

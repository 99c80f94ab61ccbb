"""The `data` commands of the command line: what can be done with a dataset before anything is trained on it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from densenet_suite.verbs.data_split import DataSplit

data_app = typer.Typer(help="Check, show, count, convert and split a dataset.", no_args_is_help=True)

DataPlace = Annotated[str, typer.Argument(help="Folder of a dataset, config file, or run folder.")]
TaskName = Annotated[str | None, typer.Option("--task", help="detection or segmentation, where both could be meant.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes of the config, such as data.size=512.", metavar="[KEY=VALUE]...")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_FAULTY = 3  # the exit code of faulty data, as for a DataError


@data_app.command()
def check(
    place: DataPlace,
    overrides: Overrides = None,
    task: TaskName = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 on warnings too.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Do not decode the images.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a dataset, and what the network will make of it; exit with 3 where there are errors."""
    from densenet_suite.verbs.data_check import check_data

    found = check_data(place, overrides or [], task=task, fast=fast)
    print(json.dumps(found.to_dict()) if as_json else found)
    if not found.passed(strict=strict):
        raise typer.Exit(_FAULTY)


@data_app.command()
def show(
    place: DataPlace,
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")],
    overrides: Overrides = None,
    task: TaskName = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    count: Annotated[int, typer.Option(help="Images, spread over the split.")] = 16,
    augmented: Annotated[bool, typer.Option("--augmented", help="Show what the network sees of each, too.")] = False,
    seed: Annotated[int, typer.Option(help="Of the choice, and of random changes.")] = 0,
) -> None:
    """Draw images with their labels into contact sheets."""
    from densenet_suite.verbs.data_show import show_data

    for sheet in show_data(
        place, overrides or [], out=out, task=task, split=split, count=count, augmented=augmented, seed=seed
    ):
        print(sheet)


@data_app.command()
def stats(
    place: DataPlace,
    overrides: Overrides = None,
    task: TaskName = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures and stats.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count sizes, objects or pixels of each class, and the statistics of the bands; draw figures."""
    from densenet_suite.verbs.data_stats import data_stats

    found = data_stats(place, overrides or [], task=task, out=out)
    print(json.dumps(found.to_dict()) if as_json else found)


@data_app.command()
def convert(
    place: DataPlace,
    out: Annotated[Path, typer.Argument(help="Folder to write; not there yet, or empty.")],
    to: Annotated[
        str, typer.Option(help="coco, voc, yolo, csv; of masks: coco, masks, palette, colours, layers; or shards.")
    ],
    overrides: Overrides = None,
    task: TaskName = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Write boxes around the connected regions of masks.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the pictures; else they are hard links.")] = False,
    shard_mb: Annotated[int, typer.Option(min=1, help="Most megabytes of a shard.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Write a dataset in another format, all its splits, and say what that loses."""
    from densenet_suite.verbs.data_convert import convert_data

    made = convert_data(place, overrides or [], out=out, to=to, task=task, boxes=boxes, copy=copy, shard_mb=shard_mb)
    print(json.dumps(made.to_dict()) if as_json else made)


@data_app.command()
def split(  # noqa: PLR0913 each is an option
    place: DataPlace,
    val: Annotated[float, typer.Option(help="Share of the images to validate on.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share to test on; a test split that is there stays if 0.")] = 0.0,
    by: Annotated[str, typer.Option(help="What stays together: image, group, patient, scene or block.")] = "image",
    group: Annotated[
        str | None, typer.Option(help="Regular expression with one group, as '(case\\d+)_', or a CSV or JSON file.")
    ] = None,
    block: Annotated[float | None, typer.Option(help="Side of a block in metres; 4 tiles if not given.")] = None,
    buffer: Annotated[float, typer.Option(help="Metres between splits of blocks; nearer tiles are put aside.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what decides between equals.")] = 0,
    task: TaskName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Divide anew; old files are kept as .old.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Divide a dataset without leaks into train, val and test, by lists and annotation files; nothing is copied."""
    from densenet_suite.verbs.data_split import split_data

    options: Any = {"by": by, "group": group, "block": block, "buffer": buffer}
    done = split_data(Path(place), val=val, test=test, seed=seed, task=task, overwrite=overwrite, **options)
    print(json.dumps(done.to_dict()) if as_json else _split_table(done))


def _split_table(done: "DataSplit") -> str:
    """Return the images of each split and class, their shares, and what was written."""
    names = list(next(iter(done.splits.values())).classes)
    width = max(len("images"), *(len(name) for name in names)) + 2
    rows = [("", *done.splits)]
    numbers = [("images", [counts.images for counts in done.splits.values()])]
    numbers += [("groups", [counts.groups for counts in done.splits.values()])]
    numbers += [(name, [counts.classes[name] for counts in done.splits.values()]) for name in names]
    for name, found in numbers:
        total = max(1, sum(found))
        rows.append((name, *(f"{count} ({100 * count / total:.0f} %)" for count in found)))
    table = "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>16}" for cell in row[1:]) for row in rows)
    lines = [f"taken for: {done.reason}", f"kept together by {done.by}; of each class, the images that have it", table]
    if done.duplicates:
        lines.append(f"{done.duplicates} images are copies of others, and lie in the same split")
    if done.set_aside:
        lines.append(f"{len(done.set_aside)} images are in no split, as they are too near to one of another")
    return "\n".join([*lines, "written: " + ", ".join(done.files)])

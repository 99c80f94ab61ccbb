"""The command line: each verb is the function of the same name, with the same arguments.

Standard output carries results, standard error what is said to people. Exit codes: 0 done, 1 the run failed, 2 usage or
config, 3 data, 4 an optional package is missing; 130 (SIGINT), 138 (SIGUSR1) or 143 (SIGTERM) training was stopped by
this signal and can be resumed. A second signal ends the process at once.
"""

import json
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from densenet_suite.data_cli import data_app
from densenet_suite.errors import SuiteError
from densenet_suite.processes import is_first_process
from densenet_suite.verbs.models import list_models, model_info

app = typer.Typer(
    help="Train, evaluate and use detectors and segmenters on EfficientNet backbones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="What can be built by name.", no_args_is_help=True)
config_app = typer.Typer(help="What a config file means.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")

Config = Annotated[Path, typer.Argument(help="YAML file of the run, such as those in configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes of the form train.epochs=10.", metavar="[KEY=VALUE]...")
]
Launcher = Annotated[str, typer.Option(help="local, or ray: the workers of a Ray cluster.")]
RunPlace = Annotated[Path, typer.Argument(help="Run folder, or a model file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train, evaluate and use detectors and segmenters on EfficientNet backbones."""
    context.obj = {"debug": debug}
    if version:
        from densenet_suite import __version__

        print(__version__)
        raise typer.Exit()
    logging.getLogger("densenet_suite").setLevel(logging.INFO)


@app.command()
def train(config: Config, overrides: Overrides = None, launcher: Launcher = "local") -> None:
    """Train what a config file says, and evaluate the best weights."""
    from densenet_suite.verbs.train import train as run_training

    _say_run(run_training(config, overrides or [], launcher=launcher))


@app.command()
def resume(run: RunPlace, overrides: Overrides = None, launcher: Launcher = "local") -> None:
    """Continue a run that was stopped; with train.epochs=..., one that is finished too."""
    from densenet_suite.verbs.train import resume as run_training

    _say_run(run_training(run, overrides or [], launcher=launcher))


@app.command()
def evaluate(
    run: RunPlace,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    as_json: AsJson = False,
) -> None:
    """Score a trained model on a split of its dataset, or of another (data.root=...)."""
    from densenet_suite.verbs.evaluate import evaluate as score

    scores = score(run, overrides or [], split=split)
    if not is_first_process():
        return
    if as_json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:<10} {'n/a' if value is None else f'{100 * value:.2f}'}")


@app.command()
def predict(  # noqa: PLR0913 - each is an option of the command
    run: RunPlace,
    source: Annotated[str, typer.Argument(help="File, folder, or pattern in quotes.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    save: Annotated[
        str | None,
        typer.Option(
            help="Of a detector: pictures,coco,csv. Of a segmenter: masks,overlays,probabilities,uncertainty."
        ),
    ] = None,
    score_threshold: Annotated[float | None, typer.Option(help="Detection: lowest score; 0.3 if not given.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Detection: per picture; 100 if not given.")] = None,
    tile: Annotated[int | None, typer.Option(help="Segmentation: side of a tile; 512 if not given.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Segmentation: of tiles; a quarter of one if not given.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures or tiles at a time.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda:1.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or the faster bfloat16.")] = "float32",
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Launch the network on the GPU at once: faster for small batches.")
    ] = False,
) -> None:
    """Find what is in pictures; write it as drawn pictures and tables, or as masks and overlays."""
    from densenet_suite.verbs.predict import predict as find
    from densenet_suite.verbs.predict import save_results

    predictions = find(
        run,
        source,
        score_threshold=score_threshold,
        max_detections=max_detections,
        tile=tile,
        overlap=overlap,
        batch=batch,
        device=device,
        precision=precision,  # type: ignore[arg-type]
        cuda_graphs=cuda_graphs,
    )
    outputs = None if save is None else [part.strip() for part in save.split(",")]
    from densenet_suite.detection.prediction import Prediction

    pictures, objects = 0, None
    try:
        for found in save_results(run, predictions, out, outputs):
            pictures += 1
            if isinstance(found, Prediction):
                objects = (objects or 0) + len(found)
    finally:
        print(("" if objects is None else f"{objects} objects in ") + f"{pictures} pictures, written to {out}")


@app.command()
def export(
    run: RunPlace,
    file_format: Annotated[
        str, typer.Argument(help="onnx, or torch: a program of torch.export.", metavar="[FORMAT]")
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file; beside the model file if not given.")] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Height and width; those of the training if not given.")
    ] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Any multiple of the network's largest stride.")] = False,
    batch: Annotated[str, typer.Option(help="Number of images, or dynamic: any.")] = "1",
    pixels: Annotated[
        str | None, typer.Option(help="uint8 or float32; by the training's pictures if not given.")
    ] = None,
    nms: Annotated[bool, typer.Option("--nms", help="Detection, in ONNX: give final detections, as predict.")] = False,
    score_threshold: Annotated[float | None, typer.Option(help="With --nms: lowest score; 0.3 if not given.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="With --nms: per image; 100 if not given.")] = None,
) -> None:
    """Write a trained model as one file for other runtimes, and check that it gives the same answers."""
    from densenet_suite.verbs.export import export as write

    target = write(
        run,
        file_format,
        out=out,
        size=size,
        dynamic=dynamic,
        batch=int(batch) if batch.isdecimal() else batch,
        pixels=pixels,
        nms=nms,
        score_threshold=score_threshold,
        max_detections=max_detections,
    )
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("quickstart"),
) -> None:
    """Make a small dataset, train a detector and a segmenter on it; minutes on two cores, nothing to download."""
    from densenet_suite.verbs.quickstart import quickstart as show

    detector, segmenter = show(out)
    for run in (detector, segmenter):
        _say_run(run)
        print(f"pictures: {run.dir / 'predictions'}")
    print("next:")
    print(f"  densenet-suite predict {detector.dir} your-pictures/")
    print(f"  densenet-suite predict {segmenter.dir} your-pictures/")
    print("  densenet-suite train configs/detect_coco_d0.yaml data.root=your-coco-folder")


@models_app.command("list")
def models_list(
    pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'efficientnet*' or 'timm/resnet*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List detectors, decoders of segmenters, and backbones."""
    found = list_models(pattern)
    if as_json:
        print(json.dumps(found))
        return
    for kind, names in found.items():
        if names:
            print(f"{kind}:")
        for name in names:
            print(f"  {name}")
    if pattern == "*":
        print("more backbones: 'timm/*', and scaled ones such as 'efficientnet(phi=-1)'")


@models_app.command("info")
def models_info(
    name: Annotated[str, typer.Argument(help="Name of a detector, decoder or backbone.")], as_json: AsJson = False
) -> None:
    """Show the numbers of a detector, a segmenter with this decoder, or a backbone."""
    _print(model_info(name), as_json=as_json)


@config_app.command("show")
def config_show(config: Config, overrides: Overrides = None) -> None:
    """Print the config that a run would use, every default included."""
    from densenet_suite.config.load import dump_config, load_config

    print(dump_config(load_config(config, overrides or [], check_paths=False)), end="")


@config_app.command("validate")
def config_validate(config: Config, overrides: Overrides = None) -> None:
    """Check a config, and that its data and weights exist."""
    from densenet_suite.config.load import load_config

    load_config(config, overrides or [])
    print(f"{config}: no problem found")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices and extras."""
    from densenet_suite.verbs.doctor import doctor as examine

    _print(examine(), as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app(args=given, prog_name="densenet-suite")
    except SuiteError as error:
        if debug:
            traceback.print_exc()
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  hint: densenet-suite --debug ... shows where; a run's log.txt has it too", file=sys.stderr)
        sys.exit(1)
    raise AssertionError("typer's app exits")


def _say_run(run: Any) -> None:
    if not is_first_process():
        return
    summary = run.summary
    best = summary.get("best_score")
    score = "n/a" if best is None or best < 0 else f"{100 * best:.1f}"
    print(f"{summary['monitor']} {score} (epoch {summary['best_epoch']})")
    print(f"run: {run.dir}")
    print(f"report: {run.dir / 'report.html'}")


def _print(values: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            print(f"{name}:")
            for entry in value:
                print("  " + "  ".join(f"{key} {part}" for key, part in entry.items()))
        elif isinstance(value, Mapping):
            print(f"{name}: " + "  ".join(f"{key} {part}" for key, part in value.items()))
        else:
            print(f"{name}: {f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else value}")

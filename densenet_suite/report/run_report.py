"""The end of a run: its best model evaluated, its curves drawn, and everything on one page that opens anywhere."""

import base64
import csv
import html
import logging
from collections.abc import Sequence
from pathlib import Path

from densenet_suite.config.load import dump_config
from densenet_suite.config.schema import Config
from densenet_suite.files import write_text
from densenet_suite.processes import is_first_process
from densenet_suite.report.evaluation import evaluate_model
from densenet_suite.report.figures import plot_curves
from densenet_suite.report.tasks import REPORTS
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run

logger = logging.getLogger(__name__)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid #d8dee4 }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } img { max-width: 100% }
.big { display: flex; gap: 2.5rem; flex-wrap: wrap } .big div { font-size: .85rem; color: #59636e }
.big b { display: block; font-size: 1.9rem; color: #1b1f24; font-weight: 600 }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: 13px }
"""


def report_run(run: Run, *, alone: bool = False) -> dict[str, float | None]:
    """Evaluate the best model on the val split, if there is one, and write plots and report.html.

    Args:
        run: what was trained.
        alone: evaluate in this process, with any device there is, however many the run was trained with.
    """
    scores: dict[str, float | None] = {}
    with run.logging():
        config = run.config
        if "val" in run.splits:
            judged = _alone(config) if alone else config
            scores = evaluate_model(run.model_path, judged, "val", run.eval_dir("val"))
        if is_first_process():
            shown = REPORTS[config.task].shown
            plot_curves(read_metrics(run.metrics_path), shown, run.dir / "plots" / "curves.png")
            write_text(run.dir / "report.html", _page(run, scores))
            logger.info("report: %s", run.dir / "report.html")
    return scores


def _alone(config: Config) -> Config:
    """Return the config for one process, which need not have what the workers have."""
    options = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    if config.trainer.get("accelerator") in ("gpu", "cuda"):
        options["accelerator"] = "auto"
    return config.model_copy(update={"trainer": {**config.trainer, **options}})


def _page(run: Run, scores: dict[str, float | None]) -> str:
    summary, config = run.summary, run.config
    report = REPORTS[config.task]
    shown = [(name, scores[name]) for name in report.shown if name in scores]
    facts = [
        (config.task, config.model.network),
        ("backbone", config.model.backbone or "the architecture's own"),
        ("epochs", f"{summary['epochs']} (best {summary['best_epoch']})"),
        ("steps", summary["steps"]),
        ("seconds", summary["seconds"]),
        ("status", summary["status"]),
    ]
    evaluation = run.dir / "eval" / "val"
    parts = [
        f"<h1>{html.escape(run.dir.name)}</h1>",
        '<div class="big">'
        + "".join(f"<div><b>{_percent(value)}</b>{name} on val</div>" for name, value in shown)
        + "</div>",
        "<h2>Run</h2>",
        _table([], [(name, str(value)) for name, value in facts]),
        _figure("Curves", run.dir / "plots" / "curves.png"),
        *(_figure(title, evaluation / name) for title, name in report.figures),
        _classes(evaluation / "per_class.csv", report.columns),
        _figure("First training batch, as the network saw it", run.dir / "images" / "train_batch.jpg"),
        f"<h2>Config</h2><pre>{html.escape(dump_config(config))}</pre>",
    ]
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(run.dir.name)}</title><style>{_STYLE}</style>"
        + "\n".join(parts)
        + "\n"
    )


def _classes(path: Path, columns: Sequence[str]) -> str:
    if not path.is_file():
        return ""
    count, *scores = columns
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[count] != "0"]
    rows.sort(key=lambda row: -int(row[count]))
    cells = [
        (row["class"], row[count], *(_percent(float(row[key]) if row[key] else None) for key in scores)) for row in rows
    ]
    return "<h2>Classes</h2>" + _table(["class", *columns], cells)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _figure(title: str, path: Path) -> str:
    """Return an image inside the page itself, so that the page can be sent alone."""
    if not path.is_file():
        return ""
    kind = "png" if path.suffix == ".png" else "jpeg"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" src="data:image/{kind};base64,{data}">'


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"

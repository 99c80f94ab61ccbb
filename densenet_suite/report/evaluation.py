"""Evaluation of a model file on a split, and the files that tell of it."""

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image

from densenet_suite.config.schema import Config
from densenet_suite.detection.metric import CocoEvaluator, DetectionScores
from densenet_suite.detection.task import DetectionTask
from densenet_suite.files import write_json, write_text
from densenet_suite.report.figures import plot_precision_recall
from densenet_suite.report.pictures import draw_evaluation
from densenet_suite.training.fit import quiet, without_worker_trace
from densenet_suite.training.slices import SLICES

logger = logging.getLogger(__name__)
_DRAWN_FROM = 0.4  # score


def evaluate_model(path: Path, config: Config, split: str, folder: Path | None) -> dict[str, float | None]:
    """Score a model file on a split, through the same steps as in training.

    Args:
        path: the model file.
        config: of the data and the post-processing.
        split: train, val or test.
        folder: where the files go; None for none.
    """
    parts = SLICES[config.task]
    model, _ = parts.load(path)
    data = parts.data(config, model.classes)
    data.fill = model.preprocess.normalization.fill
    task = parts.trained(config, model.to(memory_format=torch.channels_last))
    keep = ("accelerator", "devices", "num_nodes", "strategy", "precision", "limit_val_batches")
    options = {name: value for name, value in config.trainer.items() if name in keep}
    with quiet(), without_worker_trace():
        trainer = L.Trainer(
            **options,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.validate(task, data.eval_dataloader(split), verbose=False)
    assert isinstance(task, DetectionTask)
    assert task.scores is not None
    assert task.evaluator is not None
    if folder is not None and trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, task.scores, task.evaluator)
    return task.scores.summary


def _write(folder: Path, scores: DetectionScores, evaluator: CocoEvaluator) -> None:
    truth = evaluator.truth
    write_json(folder / "metrics.json", scores.summary)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "objects", "AP", "AP50"])
    for name, values in scores.per_class.items():
        writer.writerow([name, values["objects"], values["AP"], values["AP50"]])
    write_text(folder / "per_class.csv", table.getvalue())
    write_text(folder / "predictions.coco.json", json.dumps(_results(evaluator)))
    plot_precision_recall(scores, folder / "pr.png")
    sheet = draw_evaluation(truth, evaluator.detections(), _DRAWN_FROM)
    Image.fromarray(sheet).save(folder / "truth_and_detections.jpg", quality=90)
    logger.info("evaluation written to %s", folder)


def _results(evaluator: CocoEvaluator) -> list[dict[str, Any]]:
    """Return COCO results with the file's own image and category ids."""
    truth = evaluator.truth
    return [
        {
            "image_id": truth.images[index].id,
            "category_id": truth.classes.ids[int(row[5])],
            "bbox": row[:4].tolist(),
            "score": float(row[4]),
        }
        for index, rows in evaluator.detections()
        for row in rows
    ]

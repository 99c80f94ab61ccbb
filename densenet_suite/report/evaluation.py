"""Evaluation of a model file on a split."""

import logging
from pathlib import Path

import lightning as L
import torch

from densenet_suite.config.schema import Config
from densenet_suite.files import write_json
from densenet_suite.loading import plain_worker_errors
from densenet_suite.report.tasks import REPORTS
from densenet_suite.training.fit import quiet
from densenet_suite.training.launch import plain_process_errors, trainer_options
from densenet_suite.training.slices import SLICES

logger = logging.getLogger(__name__)


def evaluate_model(path: Path, config: Config, split: str, folder: Path | None) -> dict[str, float | None]:
    """Score a model file on a split, through the same steps as in training.

    Args:
        path: the model file.
        config: of the data and of what is judged.
        split: train, val or test.
        folder: where the files go; None for none.
    """
    parts = SLICES[config.task]
    model, _ = parts.load(path)
    data = parts.data(config, model)
    task = parts.trained(config, model.to(memory_format=torch.channels_last))
    keep = ("accelerator", "devices", "num_nodes", "strategy", "plugins", "precision", "limit_val_batches")
    options = {name: value for name, value in trainer_options(config).items() if name in keep}
    with quiet(), plain_worker_errors(), plain_process_errors():
        trainer = L.Trainer(
            **options,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        loader = data.eval_dataloader(split)
        trainer.validate(task, loader, verbose=False)
        loader.dismiss_workers()
    for line in data.note_damage():
        logger.warning("%s", line)
    scores: dict[str, float | None] = task.scores.summary
    if folder is not None and trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "metrics.json", scores)
        REPORTS[config.task].write(folder, task, data.split(split))
        logger.info("evaluation written to %s", folder)
    return scores

"""`evaluate`: the scores of a trained model on a split."""

from collections.abc import Sequence
from pathlib import Path

from densenet_suite.config.load import config_from_values, load_config
from densenet_suite.config.schema import Config
from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import model_file, read_card


def evaluate(run: str | Path, overrides: Sequence[str] = (), *, split: str = "val") -> dict[str, float | None]:
    """Score a trained model.

    Args:
        run: a run folder or a model file.
        overrides: changes of the config that it was trained with, such as "data.root=/elsewhere".
        split: train, val or test.

    Returns:
        the metrics, from 0 to 1; None where there is no object to find. A run folder also gets eval/<split>/ with
        metrics.json, per_class.csv, predictions.coco.json and pictures.

    Raises:
        ConfigError: there is no trained model.
        DataError: the split is missing or faulty.
    """
    path = model_file(run)
    config = trained_config(run, path, overrides)

    from densenet_suite.report.evaluation import evaluate_model

    folder = Path(run) / "eval" / split if Path(run).is_dir() else None
    return evaluate_model(path, config, split, folder)


def trained_config(run: str | Path, path: Path, overrides: Sequence[str]) -> Config:
    """Return the config that a model was trained with: its run folder's, or the one in the model file."""
    if Path(run).is_dir():
        return load_config(Path(run) / "config.yaml", overrides)
    card = read_card(path)
    values = (card or {}).get("provenance", {}).get("config")
    if values is None:
        raise ConfigError(
            "the model file does not say what it was trained with",
            where=str(path),
            hint="evaluate its run folder",
        )
    return config_from_values(values, overrides, where=str(path))

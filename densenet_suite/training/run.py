"""The folder of a run: where everything that belongs to it lies, under fixed names. It can be moved."""

import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from densenet_suite.config.load import load_config, save_config
from densenet_suite.config.schema import Config
from densenet_suite.errors import ConfigError
from densenet_suite.files import write_json
from densenet_suite.processes import Launch, is_first_process

logger = logging.getLogger("densenet_suite")

# tells the processes that Lightning starts for further devices which folder the first one has made
_FOLDER_VARIABLE = "DENSENET_SUITE_RUN"
_PACKAGES = (
    "densenet-suite",
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "numpy",
    "pycocotools",
    "hotcoco",
    "rasterio",
    "ray",
)


@dataclass(frozen=True)
class Run:
    """A run folder."""

    dir: Path

    @classmethod
    def create(cls, config: Config) -> Self:
        """Make `<output>/<name>-<NNN>` with the first number that is free, and write the resolved config into it.

        The further processes of a distributed run open the folder of the first.

        Raises:
            ConfigError: there is no free number, the first process could not make the folder, or is not known.
        """
        launch = Launch.read()
        if launch is not None:
            from densenet_suite.training.launch import from_first_process

            return cls(Path(from_first_process(launch, config, lambda: str(cls._make(config)))))
        if not is_first_process():
            return cls._of_first_process()
        folder = cls._make(config)
        os.environ[_FOLDER_VARIABLE] = str(folder)
        return cls(folder)

    @classmethod
    def _of_first_process(cls) -> Self:
        folder = os.environ.get(_FOLDER_VARIABLE)
        if not folder:
            raise ConfigError(
                "RANK, LOCAL_RANK or NODE_RANK is set, and no launcher that is known: torchrun, Slurm's srun",
                hint="start a single process, with trainer.devices=2 or more: it starts the others",
            )
        return cls(Path(folder))

    @classmethod
    def _make(cls, config: Config) -> Path:
        output = Path(config.output).expanduser().resolve()
        output.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = output / f"{config.name}-{number:03d}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            run = cls(folder)
            for part in ("checkpoints", "weights", "plots", "images", "eval"):
                (folder / part).mkdir()
            save_config(config, run.config_path)
            write_json(folder / "env.json", environment())
            return folder
        raise ConfigError(f"there are 9999 runs named {config.name}", where=str(output), hint="choose another name")

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a run folder.

        Raises:
            ConfigError: it is none.
        """
        run = cls(Path(folder).expanduser().resolve())
        if not run.config_path.is_file():
            raise ConfigError("not a run folder: it has no config.yaml", where=str(folder))
        return run

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.dir / "config.yaml"

    @property
    def last_checkpoint(self) -> Path:
        """What `resume` continues from."""
        return self.dir / "checkpoints" / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        """The one before it, for where it is damaged."""
        return self.dir / "checkpoints" / "previous.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The one of the best epoch."""
        return self.dir / "checkpoints" / "best.ckpt"

    @property
    def model_path(self) -> Path:
        """The best weights, in a file of their own."""
        return self.dir / "weights" / "best.safetensors"

    @property
    def metrics_path(self) -> Path:
        """One row for each epoch."""
        return self.dir / "metrics.csv"

    @property
    def data_report_path(self) -> Path:
        """What was found in the data, and what was mended."""
        return self.dir / "data_report.json"

    @property
    def config(self) -> Config:
        """The resolved config; paths in it are not checked."""
        return load_config(self.config_path, check_paths=False)

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says; empty before the first epoch is over."""
        path = self.dir / "summary.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that `data_report.json` tells of."""
        report = json.loads(self.data_report_path.read_text(encoding="utf-8"))
        return tuple(split["split"] for split in report["splits"])

    def eval_dir(self, split: str) -> Path:
        """Return the folder of an evaluation, made if it is missing."""
        folder = self.dir / "eval" / split
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Write what is logged to log.txt too, and to the terminal where nobody else does; from the first process."""
        if not is_first_process():
            quiet = logging.NullHandler()  # without a handler, Python writes warnings to the terminal
            logger.addHandler(quiet)
            try:
                yield
            finally:
                logger.removeHandler(quiet)
            return
        handlers: list[logging.Handler] = [logging.FileHandler(self.dir / "log.txt", encoding="utf-8")]
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        if not logger.handlers and not logging.getLogger().handlers:
            handlers.append(logging.StreamHandler(sys.stderr))
        level = logger.level
        logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
        try:
            yield
        except BaseException as error:
            logger.handlers[-len(handlers)].handle(_as_record(error))
            raise
        finally:
            for handler in handlers:
                logger.removeHandler(handler)
                handler.close()
            logger.setLevel(level)


def environment() -> dict[str, Any]:
    """Return what a run depends on outside its config: versions, machine, command."""
    import torch

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _as_record(error: BaseException) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__)
    return logging.LogRecord(logger.name, logging.ERROR, __file__, 0, "the run stopped", (), info)

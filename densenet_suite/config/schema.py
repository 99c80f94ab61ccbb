"""What a run can be told, with every default. This module needs no torch.

The field comments are the reference: `densenet-suite config show` prints the values that a run would use.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from densenet_suite.backbones.variants import check_backbone_name
from densenet_suite.errors import ConfigError
from densenet_suite.installed import trainer_arguments
from densenet_suite.registry import did_you_mean

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

_USUAL_BATCH = 8

# arguments of the Trainer that other keys decide
_OWN_TRAINER_KEYS = {
    "max_epochs": "train.epochs",
    "accumulate_grad_batches": "train.accumulate",
    "gradient_clip_val": "train.clip",
    "callbacks": "the Python function fit",
    "logger": "the Python function fit",
    "plugins": "the Python function fit",
    "enable_checkpointing": "nothing: a run always keeps best and last",
    "default_root_dir": "output",
    "enable_progress_bar": "nothing: a run has a bar of its own on a terminal",
    "use_distributed_sampler": "nothing: a run divides the data among the processes itself",
}


# strategies of Lightning that no process has the whole network under
_DIVIDING = ("fsdp", "deepspeed", "model_parallel")
# precisions of Lightning that images and boxes would be converted to as well
_CONVERTING = ("16-true", "bf16-true", "64", "64-true", "transformer-engine", "transformer-engine-float16")


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are never silently converted, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    """What networks of every task have."""

    backbone: str | None = None  # another backbone than the architecture's own: densenet-suite models list
    weights: str | None = None  # imagenet, a file, a run folder, or null; coco too for detectors
    drop_path: Share | None = None  # stochastic depth of the backbone; null for the published rate
    checkpointing: bool = False  # less memory, a third more time

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str | None) -> str | None:
        return value if value is None else checked(value, check_backbone_name)

    @property
    def network(self) -> str:
        """What stands on the backbone."""
        raise NotImplementedError


class DataConfig(Section):
    """What datasets of every task have. Splits that are not named are found below root by their usual names."""

    root: str
    holdout: Share = 0.2  # share of the training images to validate on where there is no val split; 0: do not validate
    # processes that read images; null for none where the CPU trains, which needs its cores, and up to 8 beside a GPU
    workers: Annotated[int, Field(ge=0)] | None = None
    # keep decoded training pictures in memory (ram), or also for later runs in ~/.cache/densenet_suite (disk); null: no
    cache: Literal["ram", "disk"] | None = None
    cache_gb: Positive = 4.0  # of it; what it has no room for is decoded each time
    damaged: Literal["stop", "skip"] = (
        "stop"  # skip: leave pictures out that cannot be decoded, up to 1 %, and list them
    )


class OptimizerConfig(Section):
    """The optimizer. Norms and biases are not decayed."""

    name: Literal["sgd", "adamw"] = "sgd"
    # for a global batch of 64 images; scaled to the real one, linearly for sgd, by the square root for adamw
    lr: Positive = 0.08
    momentum: Share = 0.9  # of sgd; adamw has betas 0.9 and 0.999
    weight_decay: NotNegative = 4e-5


class EarlyStopConfig(Section):
    """Stop when the score has not risen for a while."""

    patience: Count = 10  # evaluations
    min_delta: NotNegative = 0.0


class TrainConfig(Section):
    """The training."""

    epochs: Count = 50
    # images per process and step; auto: as many as a step has memory for, which is tried out before a run begins and
    # written into its config.yaml. Not more than the learning rate is given for, and only with a single process
    batch: Count | Literal["auto"] = _USUAL_BATCH
    accumulate: Count = 1  # steps whose gradients are added up
    optimizer: OptimizerConfig = OptimizerConfig()
    warmup_epochs: NotNegative = 1.0  # the learning rate rises linearly, then falls along a cosine
    clip: NotNegative = 10.0  # largest norm of the gradient; 0: not clipped
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9998  # decay of the averaged weights, reached by a ramp; 0: off
    recalibrate: Annotated[int, Field(ge=0)] = 64  # images to renew batch-norm statistics with before judging; 0: off
    freeze: tuple[str, ...] = ()  # patterns of parameter names that are not trained, such as backbone.*
    frozen_norms: Literal["fixed", "updated"] = "fixed"  # statistics of batch norms that are wholly frozen
    early_stop: EarlyStopConfig | None = None
    save_minutes: NotNegative = 10.0  # between checkpoints within an epoch; each epoch ends with one anyway
    unsaved_checkpoints: Annotated[int, Field(ge=0)] = 3  # in a row that may fail, as on a full disk; then it stops
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0  # steps in a row left out as loss or gradient is not finite
    hang_minutes: NotNegative = 60.0  # without a batch, after which a run ends itself; 0: never

    @field_validator("batch", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"should be a whole number of at least 1, or auto, got {value!r}")
        return value

    @property
    def batch_size(self) -> int:
        """Images per process and step; the usual number as long as it is left to be chosen."""
        return _USUAL_BATCH if self.batch == "auto" else self.batch


class Config(Section):
    """A run: what every task has. `config.tasks` adds what each has of its own."""

    task: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]  # of the run folder
    output: str = "runs"  # the folder that run folders are made in
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = TrainConfig()
    trainer: dict[str, Any] = {}  # any other argument of Lightning's Trainer: accelerator, devices, precision, ...

    @field_validator("trainer")
    @classmethod
    def _known_trainer_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = trainer_arguments() - _OWN_TRAINER_KEYS.keys()
        for key in value:
            if key in _OWN_TRAINER_KEYS:
                raise ValueError(f"trainer.{key} is decided by {_OWN_TRAINER_KEYS[key]}")
            if key == "strategy" and any(kind in str(value[key]) for kind in _DIVIDING):
                raise ValueError(
                    f"trainer.strategy {value[key]} divides the weights among processes, and runs keep them whole, for "
                    f"their averages and checkpoints; the largest network here, of 480 million weights, takes 10 GB "
                    f"with all that belongs to it: use ddp, and model.checkpointing=true where a step does not fit"
                )
            if key == "precision" and str(value[key]) in _CONVERTING:
                raise ValueError(
                    f"trainer.precision {value[key]} converts images and boxes along with the weights, and their "
                    f"digits are needed: use bf16-mixed or 16-mixed for speed, 32-true else"
                )
            if key not in known:
                hint = did_you_mean(key, known)
                raise ValueError(f"Lightning's Trainer has no argument {key!r}" + (f"; {hint}" if hint else ""))
        return value

    @model_validator(mode="after")
    def _average_has_statistics(self) -> "Config":
        if self.train.ema and self.train.recalibrate == 0:
            raise ValueError(
                "train.ema averages weights, and their batch-norm statistics must be renewed for them: "
                "set train.recalibrate above 0, or train.ema: 0"
            )
        return self

    @model_validator(mode="after")
    def _one_process_chooses(self) -> "Config":
        for key in ("devices", "num_nodes"):
            value = self.trainer.get(key)
            count = len(value) if isinstance(value, list) else value
            if self.train.batch == "auto" and isinstance(count, int) and count > 1:
                raise ValueError(
                    f"train.batch: auto tries out what fits in a single process, and trainer.{key} is {value}; "
                    f"start a run with trainer.{key}=1, and write the number that its log names"
                )
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the training images as the network sees them."""
        raise NotImplementedError


def checked(value: str, check: Callable[[str], object]) -> str:
    """Return a name that `check` knows, and say what it says where it does not."""
    try:
        check(value)
    except ConfigError as error:
        problem = error.problems[0]
        raise ValueError(f"{problem.what}" + (f"; {problem.hint}" if problem.hint else "")) from None
    return value


def one_side_or_two(value: Any, smallest: int) -> Any:
    """Check a size in pixels, one side or [height, width]."""
    two = isinstance(value, list | tuple)
    sides = tuple(value) if two else (value,)
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= smallest for side in sides)
    if value is not None and not (whole and len(sides) == 1 + two):
        raise ValueError(f"should be a whole number of at least {smallest}, or [height, width], got {value!r}")
    return sides if two else value


def ascending(value: tuple[float, float]) -> tuple[float, float]:
    """Check a range."""
    if value[0] > value[1]:
        raise ValueError(f"the smallest scale {value[0]} is above the largest {value[1]}")
    return value

"""What a run can be told of augmentation: a preset, and what is to differ from it. This module needs no torch."""

from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from densenet_suite.augment.capabilities import check_task
from densenet_suite.augment.policy import STRONG, AugmentPolicy, Task
from densenet_suite.augment.presets import PRESETS, preset_policy
from densenet_suite.config.schema import NotNegative, Positive, Section, Share, ascending
from densenet_suite.errors import ConfigError

Preset = Literal["none", "light", "standard", "strong", "aerial", "medical", "microscopy"]


class AugmentConfig(Section):
    """How much training images change; see AugmentPolicy. The defaults are those of the preset `standard`."""

    task: ClassVar[Task] = "detection"

    # none, light, standard, strong (mosaic, copy-paste, ...), aerial (all eight positions), medical or microscopy;
    # it fills in every key below that is not written beside it
    preset: Preset = "standard"
    flip: Share = 0.5  # probability of a mirror image
    vertical_flip: Share = 0.0
    rotate90: Share = 0.0  # probability of a turn by quarters, for pictures without an up
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # largest turn, in degrees
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    elastic: NotNegative = 0.0  # standard deviation of a smooth random displacement, in pixels; of masks
    brightness: Share = 0.2
    contrast: Share = 0.2
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    gamma: NotNegative = 0.0  # largest change of the exponent, as a share
    blur: NotNegative = 0.0  # largest standard deviation, in pixels
    noise: NotNegative = 0.0  # largest standard deviation, as a share of the bands' own
    compression: Annotated[float, Field(ge=0, lt=1)] = 0.0  # largest loss of JPEG's quality, as a share
    cutout: Share = 0.0  # probability that a rectangle is erased
    randaugment: Annotated[int, Field(ge=0, le=10)] = 0  # operations for each picture
    magnitude: Annotated[float, Field(ge=0, le=10)] = 5.0  # how far they go
    mosaic: Share = 0.0  # probability of a picture of four
    mixup: Share = 0.0  # probability of two pictures seen through each other; of boxes
    copy_paste: Share = 0.0  # probability that objects of another picture are pasted
    plain_epochs: Annotated[int, Field(ge=0)] = 0  # the last ones, without the five above
    min_visibility: Share = 0.15  # a box of which less is left is dropped

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        name = given.get("preset", "standard")
        if not isinstance(name, str) or name not in PRESETS:
            return given
        return {**asdict(preset_policy(name, cls.task)), **given}

    @field_validator("scale")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        return ascending(value)

    @model_validator(mode="after")
    def _task_can_do_it(self) -> "AugmentConfig":
        try:
            check_task(self.policy, self.task)
        except ConfigError as error:
            what = ", ".join(problem.what.removeprefix("augment.") for problem in error.problems)
            raise ValueError(f"{what}; {error.problems[0].hint}") from None
        return self

    def check_epochs(self, epochs: int) -> None:
        """Refuse a schedule that leaves no epoch for what it is about.

        Raises:
            ValueError: all epochs are plain.
        """
        strong = [key for key in STRONG if getattr(self, key)]
        if strong and self.plain_epochs >= epochs:
            raise ValueError(
                f"augment.plain_epochs {self.plain_epochs} leaves none of the {epochs} epochs for {', '.join(strong)}; "
                f"augment.plain_epochs={epochs // 5}, or more train.epochs"
            )

    @property
    def policy(self) -> AugmentPolicy:
        """What is built from it."""
        return AugmentPolicy(**self.model_dump())

"""What cannot be done to which data, and what is done about it before training starts. This module needs no torch.

albumentations 2.0.8 takes whatever it is given: of 13 bands it normalises all with the first one's numbers, of floats
it cuts off what is above 1. So what each key needs is a table here. A preset does without what the data cannot do; a
number of the user's own is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from densenet_suite.augment.policy import AugmentPolicy, Task
from densenet_suite.augment.presets import preset_policy
from densenet_suite.errors import ConfigError, Problem


@dataclass(frozen=True)
class Needs:
    """What a key needs.

    Attributes:
        task: the only one that can do it.
        reason: why the other one cannot.
        dtypes: of the pixels.
        bands: None for any number.
        instead: what else can be done, as the end of "set it to 0, or ...".
    """

    task: Task | None = None
    reason: str = ""
    dtypes: tuple[str, ...] = ("uint8", "float32")
    bands: tuple[int, ...] | None = None
    instead: str = ""


CAPABILITIES = {
    "saturation": Needs(dtypes=("uint8",), bands=(3,), instead="use augment.contrast, which changes any bands"),
    "hue": Needs(dtypes=("uint8",), bands=(3,), instead="use augment.brightness, which changes any bands"),
    "gamma": Needs(dtypes=("uint8",), instead="use augment.contrast, which needs no largest value"),
    "compression": Needs(dtypes=("uint8",), bands=(1, 3), instead="use augment.blur, which works on any bands"),
    "elastic": Needs("segmentation", "the box of an object that is bent is not known", instead="use augment.rotate"),
    "mixup": Needs("detection", "a pixel of a mask is of one class", instead="use augment.copy_paste"),
    "min_visibility": Needs("detection", "a mask has no boxes"),
}


def check_task(policy: AugmentPolicy, task: Task) -> None:
    """Refuse what a task cannot do.

    Raises:
        ConfigError: with every such key.
    """
    problems = [
        Problem(f"augment.{key} {getattr(policy, key)}: {needs.reason}", hint=_remedy(key, policy, task))
        for key, needs in CAPABILITIES.items()
        if needs.task not in (None, task) and _own(policy, key, task)
    ]
    if problems:
        raise ConfigError(problems)


def fit_to_data(policy: AugmentPolicy, task: Task, dtype: str, bands: int) -> tuple[AugmentPolicy, str]:
    """Return what of a policy can be done to the pixels, and a line for the log about what is left out, or "".

    Args:
        policy: how much images are to change.
        task: of the labels.
        dtype: of the pixels as they are augmented, uint8 or float32.
        bands: of the images.

    Raises:
        ConfigError: a number that is not the preset's asks for what cannot be done; with every such key.
    """
    check_task(policy, task)
    missing = list(_impossible(policy, dtype, bands))
    own = [key for key in missing if _own(policy, key, task)]
    if own:
        raise ConfigError(
            [
                Problem(
                    f"augment.{key} {getattr(policy, key)} needs {_needed(CAPABILITIES[key])}; "
                    f"these images are {_shown(dtype, bands)}",
                    hint=_remedy(key, policy, task),
                )
                for key in own
            ]
        )
    if not missing:
        return policy, ""
    kinds = dict.fromkeys(_needed(CAPABILITIES[key]) for key in missing)
    parts = [f"{' and '.join(key for key in missing if _needed(CAPABILITIES[key]) == kind)} ({kind})" for kind in kinds]
    left_out = f"augment.preset {policy.preset} without {', '.join(parts)}: images are {_shown(dtype, bands)}"
    nothing: dict[str, Any] = dict.fromkeys(missing, 0.0)
    return replace(policy, **nothing), left_out


def _impossible(policy: AugmentPolicy, dtype: str, bands: int) -> Iterator[str]:
    for key, needs in CAPABILITIES.items():
        fits = dtype in needs.dtypes and (needs.bands is None or bands in needs.bands)
        if getattr(policy, key) and not fits:
            yield key


def _own(policy: AugmentPolicy, key: str, task: Task) -> bool:
    """Say whether a number is another than the preset's."""
    return bool(getattr(policy, key) != getattr(preset_policy(policy.preset, task), key))


def _remedy(key: str, policy: AugmentPolicy, task: Task) -> str:
    given = getattr(preset_policy(policy.preset, task), key)
    instead = CAPABILITIES[key].instead
    leave = f"leave augment.{key} out" if CAPABILITIES[key].task not in (None, task) or given else f"augment.{key}=0"
    return f"{leave}, or {instead}" if instead else leave


def _needed(needs: Needs) -> str:
    depth = "8 bits" if needs.dtypes == ("uint8",) else "any depth"
    return depth if needs.bands is None else f"{depth} and {' or '.join(map(str, needs.bands))} bands"


def _shown(dtype: str, bands: int) -> str:
    return f"{dtype} of {bands} band{'s' if bands != 1 else ''}"

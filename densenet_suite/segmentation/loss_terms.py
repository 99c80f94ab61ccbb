"""The parts that a segmentation loss can be made of. Needs no torch: the config checks the names."""

from collections.abc import Sequence
from dataclasses import dataclass

from densenet_suite.errors import ConfigError
from densenet_suite.registry import did_you_mean

LOSS_NAMES = ("cross_entropy", "focal", "dice", "tversky", "lovasz", "boundary")


@dataclass(frozen=True)
class LossTerm:
    """One part of a loss.

    Where classes exclude each other, each is computed on the softmax; where they may overlap, on the sigmoid of each
    class, so that `cross_entropy` is then the binary one (BCE).

    Attributes:
        name: one of `LOSS_NAMES`; `loss.py` says what each is.
        weight: its factor in the sum.
        gamma: of focal: how little pixels count that are found already.
        alpha: of tversky: what a false alarm costs.
        beta: of tversky: what a miss costs.

    Raises:
        ConfigError: there is no loss of this name.
    """

    name: str
    weight: float = 1.0
    gamma: float = 2.0
    alpha: float = 0.3
    beta: float = 0.7

    def __post_init__(self) -> None:
        if self.name not in LOSS_NAMES:
            known = f"known are {', '.join(LOSS_NAMES)}; cross_entropy of overlapping classes is BCE"
            raise ConfigError(f"there is no loss {self.name!r}", hint=did_you_mean(self.name, LOSS_NAMES) or known)


def check_terms(terms: Sequence[LossTerm]) -> None:
    """Stop at a sum that says nothing, or says one thing twice.

    Raises:
        ConfigError: there is no term, or there are two of one name.
    """
    names = [term.name for term in terms]
    if not names:
        raise ConfigError("the loss has no terms", hint=f"known are {', '.join(LOSS_NAMES)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"the loss names {', '.join(repeated)} more than once", hint="give the sum of their weights")

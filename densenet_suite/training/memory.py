"""A step that does not fit into memory: the same step in smaller parts."""

import torch

from densenet_suite.config.schema import Config
from densenet_suite.errors import SuiteError

LESS_MEMORY = "take a smaller input or network, model.checkpointing=true, or trainer.precision=bf16-mixed"
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


def smaller_batch(config: Config, error: Exception) -> Config:
    """Return a config that takes half as many images at a time and adds up twice as many gradients.

    Args:
        config: of the run.
        error: what a step ended with.

    Raises:
        SuiteError: an image alone does not fit, or the number of images cannot be halved.
        Exception: `error` itself, where it is another one, or where there are other processes that would go on.
    """
    if not is_out_of_memory(error) or torch.distributed.is_initialized():
        raise error
    train = config.train
    batch = train.batch_size
    if batch % 2:
        raise SuiteError(
            f"a step with train.batch={batch} does not fit into memory, and an odd batch cannot be halved"
            if batch > 1
            else "a step with a single image does not fit into memory",
            hint="choose an even train.batch" if batch > 1 else LESS_MEMORY,
        ) from error
    smaller = train.model_copy(update={"batch": batch // 2, "accumulate": train.accumulate * 2})
    return config.model_copy(update={"train": smaller})


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is that memory, of a GPU or of the machine, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)

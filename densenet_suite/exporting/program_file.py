"""Files of torch.export (.pt2): the network as a program that needs torch and none of our code."""

import io
import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from densenet_suite.errors import SuiteError
from densenet_suite.exporting.inputs import ExportInputs

CARD = "densenet_suite.json"


def trace(network: nn.Module, inputs: ExportInputs) -> ExportedProgram:
    """Follow a network into a program.

    Raises:
        SuiteError: torch cannot; mostly a network of timm with sizes left open.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(
                network.eval(), (inputs.example(),), dynamic_shapes=inputs.dimensions(), strict=False
            )
    except Exception as error:  # of many kinds, all about code that cannot be followed
        open_sizes = inputs.size is None or inputs.batch is None
        raise SuiteError(
            f"torch cannot export this network: {str(error).splitlines()[0]}",
            hint="give a size and a number of images, in place of dynamic ones" if open_sizes else None,
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the folders of this machine
    return program


def program_bytes(program: ExportedProgram, card: Mapping[str, Any]) -> bytes:
    """Return a file of a program, with the card as a file of JSON in it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # of kernels of which only a part is used
        torch.export.save(program, buffer, extra_files={CARD: json.dumps(card)})
    return buffer.getvalue()


class ProgramNetwork:
    """A program as another process would run it, from the bytes of its file.

    Args:
        content: the file.
        outputs: names of what it returns.
    """

    def __init__(self, content: bytes, outputs: Iterable[str]):
        self._module = torch.export.load(io.BytesIO(content)).module()
        self._outputs = tuple(outputs)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""
        return dict(zip(self._outputs, self._module(images), strict=True))

"""The `data` commands of the command line: what can be done with a dataset before anything is trained on it."""

from typing import Annotated

import typer

data_app = typer.Typer(help="Check, show, count, convert and split a dataset.", no_args_is_help=True)

DataPlace = Annotated[str, typer.Argument(help="Folder of a dataset, config file, or run folder.")]
TaskName = Annotated[str | None, typer.Option("--task", help="detection or segmentation, where both could be meant.")]

"""YAML and `key=value` overrides to a checked config; all that is wrong is reported at once, each with its place.

This module needs no torch, so a misspelt key costs a quarter of a second.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from densenet_suite.config.schema import Config
from densenet_suite.config.tasks import TASKS
from densenet_suite.errors import ConfigError, Problem
from densenet_suite.files import write_text

_MAX_BYTES = 1_000_000
_COMMAND_LINE = "command line"
_NAMED_WEIGHTS = ("imagenet", "coco")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: 1e-4 is a number, `no` and `12:30` are text, a key stands once, aliases are refused."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


@dataclass
class _Source:
    """The raw values of a config, and where each key was written."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, key: str) -> str:
        """Return where a key, or the nearest section around it, was written."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return self.places.get("", "")


def load_config(path: Path | str, overrides: Sequence[str] = (), *, check_paths: bool = True) -> Config:
    """Read a config file, apply overrides of the form "train.epochs=10", and check everything.

    Args:
        path: the YAML file. A relative `data.root` or `model.weights` in it is relative to its folder.
        overrides: later ones win; relative paths are relative to the working folder.
        check_paths: also check that the data and the weights exist.

    Raises:
        ConfigError: with every problem found.
    """
    source = _read(Path(path))
    for override in overrides:
        _override(source, override)
    return _validate(source, check_paths=check_paths)


def config_from_values(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str, check_paths: bool = True
) -> Config:
    """Check values that are already in memory, such as those in a model file.

    Raises:
        ConfigError: with every problem found.
    """
    source = _Source(json.loads(json.dumps(values)), {"": where})
    for override in overrides:
        _override(source, override)
    return _validate(source, check_paths=check_paths)


def dump_config(config: Config) -> str:
    """Write a config, every default included, as YAML that `load_config` reads back to an equal one.

    Where a key takes one of a few names, the others stand beside it.
    """
    text = yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True, width=100)
    return _with_choices(text, type(config))


def _with_choices(text: str, schema: type[Config]) -> str:
    """Note the names that a key takes behind the one that it has."""
    infos = {key: names for key, _ in _keys(schema) if (names := _choices(schema, key))}
    sections: list[str] = []
    lines = []
    for line in text.splitlines():
        entry = re.fullmatch(r"((?:  )*)(\w+):(?: (.*))?", line)
        if entry:
            sections = [*sections[: len(entry[1]) // 2], entry[2]]
            others = [name for name in infos.get(".".join(sections), ()) if name != entry[3]]
            line += f"  # or {', '.join(others)}" if others else ""
        lines.append(line)
    return "\n".join(lines) + "\n"


def _choices(schema: Any, key: str) -> tuple[str, ...]:
    """Return the names that a key takes, where it takes one of several."""
    *sections, last = key.split(".")
    model = schema if not sections else dict(_keys(schema))[".".join(sections)]
    annotation = model.model_fields[last].annotation
    parts = [annotation, *get_args(annotation)] if get_origin(annotation) is not Literal else [annotation]
    names = [name for part in parts if get_origin(part) is Literal for name in get_args(part)]
    return tuple(names) if len(names) > 1 and all(isinstance(name, str) for name in names) else ()


def save_config(config: Config, path: Path | str) -> None:
    """Write the resolved config to a file."""
    write_text(path, dump_config(config))


def _read(path: Path) -> _Source:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError("config file is larger than a megabyte", where=str(path))
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such config file", where=str(path), hint="configs/ holds some") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file: {error}", where=str(path)) from None
    try:
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', error)}", where=where) from None
    except RecursionError:
        raise ConfigError("config file is nested too deeply", where=str(path)) from None
    source = _Source(places={"": str(path)})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("a config file holds keys and values", where=str(path), hint="see configs/ for examples")
    value = _construct(node, "", path, source, set())
    source.values = value
    for section, key in (("data", "root"), ("model", "weights")):
        _make_absolute(source.values.get(section), key, path.parent)
    return source


def _construct(node: yaml.Node, key: str, path: Path, source: _Source, seen: set[int]) -> Any:
    if isinstance(node, yaml.CollectionNode):
        if id(node) in seen:
            raise ConfigError(
                "YAML aliases are refused: a few lines of them can fill the memory",
                where=f"{path}:{node.start_mark.line + 1}",
                hint="write the values out",
            )
        seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value)
            dotted = f"{key}.{name}" if key else name
            line = f"{path}:{key_node.start_mark.line + 1}"
            if name in mapping:
                source.problems.append(
                    Problem(f"{dotted}: the key stands twice", f"{line} and {source.places[dotted]}", "keep one")
                )
            source.places[dotted] = line
            mapping[name] = _construct(value_node, dotted, path, source, seen)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, key, path, source, seen) for item in node.value]
    return _scalar(node, f"{path}:{node.start_mark.line + 1}")


def _scalar(node: yaml.Node, where: str) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node)
    except yaml.YAMLError as error:  # a tag such as !!python/object
        raise ConfigError(f"tag {node.tag} is refused: a config holds plain values", where=where) from error
    except ValueError as error:  # a whole number of thousands of digits
        raise ConfigError(f"not a number: {error}", where=where) from None
    finally:
        loader.dispose()


def _make_absolute(section: Any, key: str, folder: Path) -> None:
    value = section.get(key) if isinstance(section, dict) else None
    if isinstance(value, str) and value not in _NAMED_WEIGHTS:
        section[key] = str((folder / value).resolve())


def _override(source: _Source, text: str) -> None:
    key, equals, raw = text.partition("=")
    key = key.removeprefix("--").strip()
    if not equals or not key:
        source.problems.append(Problem(f"cannot read {text!r}", _COMMAND_LINE, "overrides have the form key.sub=value"))
        return
    try:
        node = yaml.compose(raw, _Loader)
        value = None if node is None else _construct(node, key, Path(_COMMAND_LINE), _Source(), set())
    except (yaml.YAMLError, ConfigError, RecursionError):
        value = raw
    *sections, last = key.split(".")
    target = source.values
    for depth, section in enumerate(sections, start=1):
        inner = target.get(section)
        if not isinstance(inner, dict):
            inner = target[section] = {}
            source.places[".".join(sections[:depth])] = _COMMAND_LINE
        target = inner
    target[last] = value
    source.places[key] = _COMMAND_LINE
    if key in ("data.root", "model.weights"):
        _make_absolute(target, last, Path.cwd())


def _validate(source: _Source, *, check_paths: bool) -> Config:
    problems = list(source.problems)
    config: Config | None = None
    schema, unknown = _schema(source)
    problems += unknown
    try:
        # through JSON, so that strict checking still takes a list for a tuple
        config = schema.model_validate_json(json.dumps(source.values), strict=True)
    except ValidationError as error:
        entries = [dict(entry) for entry in error.errors() if not (unknown and entry["loc"] == ("task",))]
        problems += [_problem(entry, source, schema) for entry in entries]
    if check_paths:
        problems += _missing_paths(source)
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def _schema(source: _Source) -> tuple[type[Config], list[Problem]]:
    """Return what the task's configs look like; where there is no such task, the nearest one's, and the problem."""
    task = source.values.get("task")
    if isinstance(task, str) and task in TASKS:
        return TASKS[task], []
    near = difflib.get_close_matches(str(task), TASKS, n=1, cutoff=0)[0]
    what = "task: this key is required" if task is None else f"task: there is no task {json.dumps(task)}"
    return TASKS[near], [Problem(what, source.place("task"), f"known are {', '.join(TASKS)}")]


def _problem(entry: Mapping[str, Any], source: _Source, schema: type[Config]) -> Problem:
    location = [str(part) for part in entry["loc"]]
    key = ".".join(location)
    where = source.place(key)
    if entry["type"] == "extra_forbidden":
        return Problem(f"{key}: unknown key", where, _nearest_key(location, schema))
    if entry["type"] == "missing":
        return Problem(f"{key}: this key is required", where, f"write {key}: ... or pass {key}=...")
    message = str(entry["msg"]).removeprefix("Value error, ")
    what, _, hint = message.partition("; ")
    prefix = f"{key}: " if key else ""
    if entry["type"] != "value_error":
        what = f"{what[:1].lower()}{what[1:]}, got {json.dumps(entry['input'])}"
    return Problem(f"{prefix}{what}", where, hint or None)


def _nearest_key(location: Sequence[str], schema: type[Config]) -> str | None:
    *sections, name = location
    model: Any = schema
    for section in sections:
        model = dict(_keys(model)).get(section)
    here = list(model.model_fields) if model else []
    elsewhere = [key for key, _ in _keys(schema) if key.rpartition(".")[2] == name]
    near = [".".join([*sections, known]) for known in difflib.get_close_matches(name, here, n=2, cutoff=0.6)]
    close = elsewhere[:2] or near
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known here: {', '.join(here)}" if here else None


def _keys(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if model is None:
        return
    for name, info in model.model_fields.items():
        arguments = [info.annotation, *getattr(info.annotation, "__args__", ())]
        section = next((a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)), None)
        yield f"{prefix}{name}", section
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _missing_paths(source: _Source) -> Iterator[Problem]:
    root, weights = _value(source, "data", "root"), _value(source, "model", "weights")
    if isinstance(root, str) and not Path(root).is_dir():
        yield Problem(
            f"data.root: there is no folder {root}",
            source.place("data.root"),
            "give the folder of the dataset",
        )
    if isinstance(weights, str) and weights not in _NAMED_WEIGHTS and not Path(weights).exists():
        yield Problem(
            f"model.weights: there is no file or run folder {weights}",
            source.place("model.weights"),
            "a path, imagenet, coco, or null",
        )


def _value(source: _Source, section: str, key: str) -> Any:
    inside = source.values.get(section)
    return inside.get(key) if isinstance(inside, dict) else None

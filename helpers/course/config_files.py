"""Settings files, YAML or JSON, read strictly: a key that stands twice or a broken line is named."""

import difflib
import json
from pathlib import Path
from typing import Any

import yaml

from helpers.course.atomic import read_bytes
from helpers.course.encodings import decode_text
from helpers.course.errors import InputError
from helpers.course.jsonl import unique_keys
from helpers.course.paths import short_path

ENDINGS = (".yaml", ".yml", ".json")


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key standing twice (the usual loader keeps the last without a word)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML lets Python's own errors through where a date, a number or a truth value cannot be built."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"no {kind}: {error}", node.start_mark) from error


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys and values of a settings file (``.yaml``, ``.yml`` or ``.json``). An empty file is an empty dict.

    Raises :class:`InputError` with line and column where the file cannot be read.
    """
    path = Path(path)
    name = short_path(path)
    if path.suffix not in ENDINGS:
        raise InputError("this is no settings file", file=name, given=path.suffix or "no ending", allowed=ENDINGS)
    if not path.is_file():
        there = sorted(other.name for other in path.parent.glob("*") if other.suffix in ENDINGS)
        near = difflib.get_close_matches(path.name, there, 1)
        raise InputError(
            "this settings file does not exist",
            file=name,
            allowed=there or None,
            hint=f"did you mean {near[0]}?" if near else "relative paths start at the root of the repository",
        )
    text, _ = decode_text(read_bytes(path), name, "utf-8", ["utf-8"])
    try:
        values = _json(text, name) if path.suffix == ".json" else _yaml(text, name)
    except RecursionError:
        raise InputError("this settings file is nested too deeply", file=name, allowed="a few levels") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"a settings file holds keys and values, this one holds a {type(values).__name__}",
            file=name,
            allowed="lines of `key: value`",
        )
    for key in values:
        if not isinstance(key, str):
            raise InputError("a key must be a word", file=name, place=f"key {key!r}", given=key)
    return values


def _yaml(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)  # a SafeLoader underneath: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else None
        given = text.split("\n")[mark.line].strip() if mark and mark.line < text.count("\n") + 1 else None
        raise InputError(
            f"this is no valid YAML: {error.problem}",
            file=name,
            place=place,
            given=given,
            hint="indent with spaces, one `key: value` a line, a space after the colon",
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"this is no valid YAML: {error}", file=name) from error


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys) if text.strip() else None
    except json.JSONDecodeError as error:
        raise InputError(
            f"this is no valid JSON: {error.msg}",
            file=name,
            place=f"line {error.lineno}, column {error.colno}",
            given=text.split("\n")[error.lineno - 1].strip(),
            hint="no comments, no comma after the last value, double quotes",
        ) from error
    except ValueError as error:
        raise InputError(f"this is no valid settings file: {error}", file=name) from error

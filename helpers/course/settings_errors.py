"""What is wrong with a setting, in words for a newcomer: which key, what was given, what is allowed."""

import difflib
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from helpers.course.errors import InputError

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "nothing (null)",
}
BOUNDS = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than", "pattern": "matching"}
LENGTHS = {"min_length": "at least", "max_length": "at most"}


def known_names(settings: type[BaseModel]) -> dict[str, str]:
    """Every name that a key may have -> the field it means (fields and their aliases)."""
    names = {name: name for name in settings.model_fields}
    for name, field in settings.model_fields.items():
        alias = field.validation_alias or field.alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names |= {choice: name for choice in choices if isinstance(choice, str)}
    return names


def refuse_unknown(settings: type[BaseModel], values: dict[str, Any], file: str | None, prefix: str) -> None:
    """Raise :class:`InputError` for the first key that the settings do not have, or that stands under two names."""
    names = known_names(settings)
    used: dict[str, str] = {}
    for key, value in values.items():
        place = f"parameter {key}" if file is None else f"key {prefix}{key}"
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 3, 0.6)
            raise InputError(
                f"there is no such setting in {settings.__name__}",
                file=file,
                place=place,
                given=value,
                allowed=sorted(names),
                hint=f"did you mean {' or '.join(near)}?" if near else None,
            )
        if names[key] in used:
            raise InputError(
                "one setting stands under two names",
                file=file,
                place=f"{place} and {prefix}{used[names[key]]}",
                given=value,
            )
        used[names[key]] = key


def validation_error(
    settings: type[BaseModel], error: ValidationError, file: str | None, places: dict[str, str]
) -> InputError:
    """pydantic's complaint as one :class:`InputError`: the first wrong setting in full, the others by name."""
    names = known_names(settings)
    details = error.errors(include_url=False)
    keys = [names.get(str(detail["loc"][0]), str(detail["loc"][0])) if detail["loc"] else "" for detail in details]
    first, key = details[0], keys[0]
    others = sorted(set(keys[1:]) - {key, ""})
    hint = f"also wrong: {', '.join(others)}" if others else None
    field = settings.model_fields.get(key)
    if first["type"] == "missing":
        return InputError(
            "a setting is missing",
            file=file,
            place=f"key {key}",
            allowed=_allowed(field),
            hint=hint or "name it in the settings file or as a parameter",
        )
    place = places.get(key, f"key {key}" if key else None)
    if place and len(first["loc"]) > 1:  # inside a list or a mapping
        place += "".join(f"[{part}]" for part in first["loc"][1:])
    if first["type"] in ("value_error", "assertion_error"):
        what, allowed = str(first["ctx"]["error"]), None
    else:
        what, allowed = "this value does not fit", _allowed(field)
    given = first["input"] if key else None
    return InputError(
        what,
        file=None if place and place.startswith("parameter") else file,
        place=place,
        given="null (nothing)" if given is None and key else given,
        allowed=allowed,
        hint=hint,
    )


def truth_for_a_number(annotation: Any, value: Any) -> bool:
    """Whether ``value`` is true or false, or holds one, where ``annotation`` takes numbers only."""
    if get_origin(annotation) is Annotated:
        return truth_for_a_number(get_args(annotation)[0], value)
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not NoneType]
        return bool not in parts and any(truth_for_a_number(part, value) for part in parts)
    if get_origin(annotation) in (list, tuple, set) and isinstance(value, list | tuple | set):
        return any(truth_for_a_number(part, item) for part in get_args(annotation)[:1] for item in value)
    return isinstance(value, bool) and annotation in (int, float)


def _allowed(field: FieldInfo | None) -> str | None:
    """What a field takes, in words: "a number, greater than 0"."""
    if field is None:
        return None
    bounds = [
        f"{words} {getattr(rule, name)}{unit}"
        for rule in field.metadata
        for table, unit in ((BOUNDS, ""), (LENGTHS, " long"))
        for name, words in table.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([_type_words(field.annotation), *([" and ".join(bounds)] if bounds else [])])


def _type_words(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_words(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type_words(part) for part in get_args(annotation))
    if get_origin(annotation) in (list, tuple, set):
        inner = [_type_words(part) for part in get_args(annotation) if part is not Ellipsis]
        written = ', written ["a", "b"]' if inner == ["text"] else ""
        return f"a list of values, each {inner[0]}{written}" if inner else "a list"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))

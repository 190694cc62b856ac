"""Typed settings of a lesson: file < profile < smoke < notebook parameter, each wrong key named."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pandas as pd
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from helpers.course.config_files import read_config
from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY, repository_path, short_path
from helpers.course.settings_errors import known_names, refuse_unknown, truth_for_a_number, validation_error

Profile = Literal["cpu", "t4", "a100"]
PROFILES = ("cpu", "t4", "a100")
SMOKE_VARIABLE = "COURSE_SMOKE"


def smoke_is_asked_for() -> bool:
    """Whether ``COURSE_SMOKE=1`` stands in the environment: every lesson runs at its smallest size."""
    return os.environ.get(SMOKE_VARIABLE) == "1"


TextOrNone = Annotated[str | None, BeforeValidator(lambda value: value or None)]
"""A text that may be left out: empty, it is None, which a parameter cannot say (there null means: as the file says)."""


class LessonSettings(BaseModel):
    """What every lesson can be told. Wings subclass it and add their own knobs.

    Fields may carry aliases (``Field(validation_alias="max_seq_length")`` or ``AliasChoices``); a file and a parameter
    may use either name. Relative paths resolve against the root of the repository, in files and in parameters.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )
    default_config: ClassVar[str | None] = None
    """The file that :meth:`load` reads when none is named, e.g. ``"config/simcse.yaml"``."""

    profile: Profile = Field("cpu", description="which machine the values are meant for")
    config: Path | None = Field(None, description="the settings file")
    model: str = Field(description="a folder of the repository or a name on the model hub")
    data_dir: Path = Field(Path("sample_data"), description="where the data sets lie")
    output_dir: Path = Field(Path("outputs"), description="where results go")
    seed: int = Field(13, ge=0, lt=2**32, description="the seed of every draw")
    smoke: bool = Field(False, description="a run of seconds that only shows that all works")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        config: str | Path | None = None,
        *,
        profile: str | None = None,
        smoke: bool | None = None,
        **parameters: Any,
    ) -> Self:
        """Settings from a file and from parameters.

        The file (YAML or JSON) holds base keys and two optional sections, ``smoke: {...}`` and
        ``profiles: {cpu: {...}, t4: {...}, a100: {...}}``. Later wins: file < section of the profile < smoke section
        (if ``smoke``) < parameters that are not None. Raises :class:`InputError` with file, key, value and what is
        allowed; a key that does not exist is found in every section, not only in those in use.

        ``COURSE_SMOKE=1`` in the environment means ``smoke=True``, and results go to ``outputs/smoke/<lesson>`` unless
        ``output_dir`` is a parameter: a check of stored outputs leaves those of a real run alone.
        """
        smoke = None if smoke is None else _truth(smoke)
        from_environment = smoke_is_asked_for() and not smoke
        smoke = smoke or from_environment
        source = config if config is not None else cls.default_config
        path = None if source is None else repository_path(source)
        name = None if path is None else short_path(path)
        base = {} if path is None else read_config(path)
        sections = _sections(base, name)
        chosen = profile if profile is not None else base.get("profile", "cpu")
        if chosen not in PROFILES:
            raise InputError(
                "there is no such profile",
                file=name if profile is None else None,
                place="key profile" if profile is None else "parameter profile",
                given=chosen,
                allowed=PROFILES,
            )
        refuse_unknown(cls, base, name, "")
        for section, values in sections.items():
            refuse_unknown(cls, values, name, f"{section}.")
        given = {key: value for key, value in parameters.items() if value is not None}
        refuse_unknown(cls, given, None, "")
        named = {"profile": profile, "smoke": smoke, "config": None if config is None else path}
        given |= {key: value for key, value in named.items() if value is not None}
        folder = base.get("output_dir", "outputs")
        if from_environment and "output_dir" not in given and isinstance(folder, str):  # else it is refused below
            given["output_dir"] = Path("outputs/smoke") / Path(folder).name
        layers = [
            ({"config": path}, "default", ""),
            (base, f"{name}", ""),
            (sections.get(f"profiles.{chosen}", {}), f"{name}, profile {chosen}", f"profiles.{chosen}."),
            (sections.get("smoke", {}) if smoke else {}, f"{name}, smoke", "smoke."),
            (given, "parameter", ""),
        ]
        return cls._from_layers(layers, name)

    @classmethod
    def _from_layers(cls, layers: list[tuple[dict[str, Any], str, str]], file: str | None) -> Self:
        """Each layer is (values, where they come from, prefix of their keys in the file); later ones win."""
        names = known_names(cls)
        values, origins, places = {}, {}, {}
        for layer, origin, prefix in layers:
            for key, value in layer.items():
                values[names[key]], origins[names[key]] = value, origin
                places[names[key]] = f"parameter {key}" if origin == "parameter" else f"key {prefix}{key}"
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise validation_error(cls, error, file, places) from error
        settings._origins = origins
        return settings

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's yes, no, on and off are truth values; pydantic would take them for 1 and 0 unsaid."""
        if truth_for_a_number(cls.model_fields[info.field_name].annotation, value):
            raise ValueError("a number is needed here, not true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _from_the_root(cls, value: Any) -> Any:
        return repository_path(value) if isinstance(value, Path) else value

    @field_validator("model", mode="after")
    @classmethod
    def _local_model(cls, value: str) -> str:
        """A folder of the repository becomes an absolute path; anything else is a name on the hub and stays."""
        local = repository_path(value)
        return str(local) if value and local.exists() else value

    def changed(self, **changes: Any) -> Self:
        """A copy with some values replaced, checked like all others."""
        refuse_unknown(type(self), changes, None, "")
        other = type(self)._from_layers([(dict(self), "before", ""), (changes, "parameter", "")], None)
        names = known_names(type(self))
        other._origins = self._origins | {names[key]: "changed" for key in changes}
        return other

    def table(self) -> pd.DataFrame:
        """One row a setting: ``key``, ``value`` and ``from`` (where it came from), to show in a notebook."""
        rows = [(key, _readable(value), self._origins.get(key, "default")) for key, value in self]
        return pd.DataFrame(rows, columns=["key", "value", "from"])


def _truth(smoke: Any) -> bool:
    """As the field reads it: papermill hands on ``-p smoke false`` as text, which Python takes for true."""
    try:
        return TypeAdapter(bool).validate_python(smoke)
    except ValidationError as error:
        raise InputError(
            "this value does not fit", place="parameter smoke", given=smoke, allowed="true or false"
        ) from error


def _sections(base: dict[str, Any], file: str | None) -> dict[str, dict[str, Any]]:
    """Take ``profiles`` and ``smoke`` out of ``base``: ``{"profiles.cpu": {...}, "smoke": {...}}``."""
    profiles = base.pop("profiles", None) or {}
    sections = {"profiles": profiles, "smoke": base.pop("smoke", None) or {}}
    if isinstance(profiles, dict):
        for name in profiles:
            if name not in PROFILES:
                raise InputError(
                    "there is no such profile",
                    file=file,
                    place=f"key profiles.{name}",
                    given=str(name),
                    allowed=PROFILES,
                )
        del sections["profiles"]
        sections |= {f"profiles.{name}": values or {} for name, values in profiles.items()}
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise InputError(
                "a section of keys is needed here",
                file=file,
                place=f"key {name}",
                given=values,
                allowed="indented lines of `key: value`",
            )
        for key in ("profile", "config", "smoke"):
            if key in values:
                raise InputError("this key cannot stand in a section", file=file, place=f"key {name}.{key}")
    return sections


def _readable(value: Any) -> Any:
    if isinstance(value, Path):
        return short_path(value)
    return short_path(value) if isinstance(value, str) and value.startswith(str(REPOSITORY)) else value

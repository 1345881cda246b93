"""Options of models and settings of their handlers, at every level."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from oip_host.config.configuration import Configuration, read
from oip_host.config.handler_settings import build_settings, mask_secrets
from oip_host.config.model_options import (
    ModelOptions,
    group_by_model,
    parse_model_options,
)
from oip_host.config.selection import Item
from oip_host.hookspecs import HandlerEntry
from oip_host.host.planning import Plan, Wiring, plan
from oip_host.plugins.choice import Choice
from oip_host.replicas.cluster import Cluster
from oip_host.replicas.handler import deployment_options
from oip_host.telemetry.observer import Observer
from support.configuration import Levels
from support.fakes import Configured, Echo
from support.process import oip_host

FRAUD = ("fraud", "1")
Key = tuple[str, str]


@dataclass(frozen=True)
class Given:
    """An option as a test sets it, in the arguments of `Levels.read`."""

    source: str
    arguments: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)


def in_json(name: str, option: str, text: str) -> str:
    """Return the JSON object that sets one option to a text value."""
    value: Any = text
    for part in reversed(option.split(".")):
        value = {part: value}
    return json.dumps({name: value})


def as_argument(name: str, option: str, text: str) -> Given:
    key = f"--models.{name}.{option}"
    return Given(key, arguments=(f"{key}={text}",))


def as_two_tokens(name: str, option: str, text: str) -> Given:
    key = f"--models.{name}.{option}"
    return Given(key, arguments=(key, text))


def as_json_argument(name: str, option: str, text: str) -> Given:
    given = f"--models={in_json(name, option, text)}"
    return Given(f"--models ({name}.{option})", arguments=(given,))


def as_variable(name: str, option: str, text: str) -> Given:
    spelled = name.translate(str.maketrans("-.@", "___"))
    key = "__".join(("oip_models", spelled, *option.split("."))).upper()
    return Given(key, environ={key: text})


def as_json_variable(name: str, option: str, text: str) -> Given:
    given = {"OIP_MODELS": in_json(name, option, text)}
    return Given(f"OIP_MODELS ({name}.{option})", environ=given)


def as_property(name: str, option: str, text: str) -> Given:
    key = f"models.{name}.{option}"
    return Given(f"{key} in oip.properties", properties={key: text})


# highest precedence first; an argument in two tokens ranks like one in one token
WAYS = [as_argument, as_json_argument, as_variable, as_json_variable, as_property]
ALL_WAYS = [*WAYS, as_two_tokens]
each_way = pytest.mark.parametrize("way", ALL_WAYS, ids=lambda way: way.__name__)


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Levels:
    return Levels(tmp_path, monkeypatch)


def configured(levels: Levels, *given: Given) -> Configuration:
    """Return the configuration of everything given, without faults of the server."""
    environ: dict[str, str] = {}
    properties: dict[str, str] = {}
    for each in given:
        environ |= each.environ
        properties |= each.properties
    arguments = [argument for each in given for argument in each.arguments]
    configuration, faults = levels.read(arguments, environ, properties)
    assert faults == []
    return configuration


def options_of(
    configuration: Configuration, key: Key = FRAUD, models: Iterable[Key] = ()
) -> ModelOptions:
    """Return one model's options among those of `models`; expect no faults."""
    values, warnings = group_by_model(configuration.origins, list(models) or [key])
    options, faults = parse_model_options(key, values[key])
    assert (warnings, faults) == ([], [])
    assert options is not None
    return options


def settings_of(
    handler: type, configuration: Configuration
) -> tuple[BaseModel | None, list[str]]:
    """Return the handler's settings and their faults."""
    values, _ = group_by_model(configuration.origins, [FRAUD])
    return build_settings(handler, FRAUD, mask_secrets(handler, values[FRAUD]))


# -- levels -----------------------------------------------------------------------


def test_model_without_options_has_defaults(levels: Levels) -> None:
    """A model for which nothing is set has the defaults."""
    options = options_of(configured(levels))
    assert options.max_concurrency is None
    assert (options.max_queue, options.timeout_s) == (256, 300.0)
    assert options.settings == {}


@each_way
@pytest.mark.parametrize(
    ("option", "text", "value"),
    [("max_queue", "7", 7), ("max_concurrency", "3", 3), ("timeout_s", "0.5", 0.5)],
    ids=["max_queue", "max_concurrency", "timeout_s"],
)
def test_each_way_sets_each_option(
    option: str, text: str, value: float, way: Any, levels: Levels
) -> None:
    """Each level and spelling sets a model's option and is recorded as its source."""
    given = way("fraud", option, text)
    configuration = configured(levels, given)
    assert getattr(options_of(configuration), option) == value
    values, _ = group_by_model(configuration.origins, [FRAUD])
    assert values[FRAUD][(option,)].source == given.source


@pytest.mark.parametrize(
    "pair",
    [*combinations(WAYS, 2), (as_two_tokens, as_variable)],
    ids=lambda pair: "-over-".join(way.__name__ for way in pair),
)
def test_higher_level_wins(pair: Any, levels: Levels) -> None:
    """An argument beats the environment, which beats a property.

    At one level, an option set alone beats the same option in JSON.
    """
    high, low = pair
    given = [high("fraud", "max_queue", "7"), low("fraud", "max_queue", "8")]
    assert options_of(configured(levels, *given)).max_queue == 7
    assert options_of(configured(levels, *reversed(given))).max_queue == 7


def test_options_of_several_levels_merge(levels: Levels) -> None:
    """A level replaces single options, not all options of a model."""
    configuration = configured(
        levels,
        as_argument("fraud", "max_queue", "7"),
        as_json_variable("fraud", "timeout_s", "2"),
        as_property("fraud", "max_concurrency", "3"),
    )
    options = options_of(configuration)
    found = (options.max_queue, options.timeout_s, options.max_concurrency)
    assert found == (7, 2.0, 3)


def test_two_tokens_leave_other_arguments_alone(levels: Levels) -> None:
    """The token after an option is its value; the other arguments are for KServe."""
    configuration, faults = levels.read(
        [
            "--event-loop",
            "asyncio",
            "--models.fraud.max_queue",
            "7",
            "--log_config_file",
        ]
    )
    assert faults == []
    assert options_of(configuration).max_queue == 7
    expected = ("--event-loop", "asyncio", "--log_config_file")
    assert configuration.kserve_arguments == expected


# -- names and versions -----------------------------------------------------------


@each_way
@pytest.mark.parametrize(
    "name", ["my-model", "my.model", "My-Model.v2", "under_score", "A", "7b"]
)
def test_model_names_of_every_form(name: str, way: Any, levels: Levels) -> None:
    """A name may contain dots and dashes; a variable spells them `_`, in upper case."""
    configuration = configured(levels, way(name, "max_queue", "7"))
    assert options_of(configuration, (name, "1")).max_queue == 7


@pytest.mark.parametrize("levels_set", [1, 2, 3])
def test_precedence_holds_for_dashed_name(levels_set: int, levels: Levels) -> None:
    """Precedence holds for a name that is spelled differently in the environment."""
    ways = [as_property, as_variable, as_argument][:levels_set]
    given = [way("my-model", "max_queue", str(n)) for n, way in enumerate(ways, 1)]
    configuration = configured(levels, *given)
    assert options_of(configuration, ("my-model", "1")).max_queue == levels_set


@each_way
@pytest.mark.parametrize("exact", [True, False], ids=["version", "name"])
def test_options_of_versions(exact: bool, way: Any, levels: Levels) -> None:
    """`name` applies to every version, `name@version` to that version only."""
    models = [("fraud", "1"), ("fraud", "1.5")]
    name = "fraud@1.5" if exact else "fraud"
    configuration = configured(levels, way(name, "max_queue", "7"))
    found = [options_of(configuration, key, models).max_queue for key in models]
    assert found == [256 if exact else 7, 7]


@pytest.mark.parametrize("exact_way", WAYS, ids=lambda way: way.__name__)
def test_version_takes_precedence_over_name(exact_way: Any, levels: Levels) -> None:
    """`name@version` wins over `name`, at whichever levels the two are set."""
    models = [("fraud", "1"), ("fraud", "2")]
    exact = exact_way("fraud@2", "max_queue", "7")
    for way in WAYS:
        general = way("fraud", "max_queue", "8")
        if exact_way is way and "json" in way.__name__:
            continue  # one JSON text cannot be given twice
        configuration = configured(levels, exact, general)
        found = [options_of(configuration, key, models).max_queue for key in models]
        assert found == [8, 7], way.__name__


@each_way
def test_longest_matching_name_wins(way: Any, levels: Levels) -> None:
    """If one model's name begins another's, an option goes to the longer name."""
    models = [("fraud", "1"), ("fraud.eu", "1")]
    configuration = configured(levels, way("fraud.eu", "max_queue", "7"))
    found = [options_of(configuration, key, models).max_queue for key in models]
    assert found == [256, 7]


@pytest.mark.parametrize("name", ["a_b", "a-b", "a.b"])
def test_exact_name_beats_its_variable_spelling(name: str, levels: Levels) -> None:
    """Models whose names differ only in `-`, `.` and `_` have separate options."""
    models = [("a-b", "1"), ("a_b", "1"), ("a.b", "1")]
    configuration = configured(levels, as_argument(name, "max_queue", "7"))
    found = {key[0]: options_of(configuration, key, models) for key in models}
    expected = {key[0]: 7 if key[0] == name else 256 for key in models}
    assert {key: options.max_queue for key, options in found.items()} == expected


# -- unknown names ----------------------------------------------------------------


@each_way
def test_option_of_unselected_model_is_a_warning(way: Any, levels: Levels) -> None:
    """An option of a model that is not selected is a warning with the nearest name.

    It is not a fault because one file may configure several deployments.
    """
    given = way("froud", "max_queue", "7")
    configuration = configured(levels, given)
    values, warnings = group_by_model(configuration.origins, [FRAUD, ("churn", "1")])
    assert values == {FRAUD: {}, ("churn", "1"): {}}
    assert warnings == [
        f"{given.source}: not used, no selected model is named 'froud', "
        "nearest: 'fraud'"
    ]


def test_no_similar_model_means_no_nearest_name(levels: Levels) -> None:
    """No nearest name is suggested if no model has a similar name."""
    configuration = configured(levels, as_argument("zzz", "max_queue", "7"))
    _, warnings = group_by_model(configuration.origins, [FRAUD])
    expected = "--models.zzz.max_queue: not used, no selected model is named 'zzz'"
    assert warnings == [expected]


def test_option_of_unselected_version_is_a_warning(levels: Levels) -> None:
    """An option of a version that is not selected does not apply to the model."""
    configuration = configured(levels, as_argument("fraud@3", "max_queue", "7"))
    values, warnings = group_by_model(configuration.origins, [FRAUD])
    assert values == {FRAUD: {}}
    assert len(warnings) == 1
    assert "no selected model is named 'fraud@3', nearest: 'fraud'" in warnings[0]


@each_way
def test_unknown_option_is_a_fault_with_nearest_name(way: Any, levels: Levels) -> None:
    """An unknown option of a selected model is a fault that names where it was set."""
    given = way("fraud", "max_queu", "7")
    values, _ = group_by_model(configured(levels, given).origins, [FRAUD])
    expected = f"{given.source}: unknown option, nearest: 'max_queue'"
    assert parse_model_options(FRAUD, values[FRAUD]) == (None, [expected])


def test_model_key_without_option_is_a_fault(levels: Levels) -> None:
    """`models.<name>` without an option is a fault, and is not silently ignored."""
    configuration, _ = levels.read(["--models.fraud=7"])
    values, warnings = group_by_model(configuration.origins, [FRAUD])
    assert warnings == []
    assert parse_model_options(FRAUD, values[FRAUD]) == (
        None,
        ["--models.fraud: unknown option"],
    )


@each_way
@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("max_queue", "many", "expected a valid integer"),
        ("max_queue", "-1", "expected greater than or equal to 0"),
        ("max_concurrency", "0", "expected greater than or equal to 1"),
        ("timeout_s", "0", "expected greater than 0"),
        ("timeout_s", "soon", "expected a valid number"),
        ("settings", "text", "expected a valid dictionary"),
    ],
)
def test_invalid_option_value_is_a_fault(
    option: str, text: str, expected: str, way: Any, levels: Levels
) -> None:
    """An invalid value is a fault with its source, the value and what is expected."""
    given = way("fraud", option, text)
    values, _ = group_by_model(configured(levels, given).origins, [FRAUD])
    line = f"{given.source}: found {text!r}, {expected}"
    assert parse_model_options(FRAUD, values[FRAUD]) == (None, [line])


def test_faults_of_a_model_are_reported_together(levels: Levels) -> None:
    """Every invalid option of a model has a line."""
    given = [
        as_argument("fraud", "max_queue", "many"),
        as_variable("fraud", "timeout_s", "0"),
        as_property("fraud", "max_batch", "3"),
    ]
    values, _ = group_by_model(configured(levels, *given).origins, [FRAUD])
    _, faults = parse_model_options(FRAUD, values[FRAUD])
    sources = {fault.split(":")[0] for fault in faults}
    assert sources == {each.source for each in given}


@pytest.mark.parametrize(
    "text", ['{"fraud": {"key": "hunter2"', "[1]", "7", "null", ""]
)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_json_that_is_not_an_object_is_a_fault(
    way: str, text: str, levels: Levels
) -> None:
    """JSON that is not an object is one fault, which does not show possible secrets."""
    if way == "argument":
        source, (_, faults) = "--models", levels.read([f"--models={text}"])
    else:
        source, (_, faults) = "OIP_MODELS", levels.read(environ={"OIP_MODELS": text})
    assert len(faults) == 1
    assert faults[0].startswith(f"{source}: found ")
    assert faults[0].endswith(", expected a JSON object")
    assert "hunter2" not in faults[0]


# -- handler settings -------------------------------------------------------------


class Nested(BaseModel):
    host: str = ""
    port: int = 0


class Handler:
    """A handler with settings of many types."""

    class Settings(BaseModel):
        text: str = ""
        maybe: str | None = None
        number: int = 0
        on: bool = False
        labels: list[str] = []
        sizes: tuple[int, ...] = ()
        table: dict[str, Any] = {}
        path: Path | None = None
        nested: Nested = Nested()


@each_way
@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        pytest.param("text", "abc", "abc", id="str"),
        pytest.param("text", "007", "007", id="str-of-digits"),
        pytest.param("text", "true", "true", id="str-of-true"),
        pytest.param("text", "[1]", "[1]", id="str-like-a-list"),
        pytest.param("maybe", '{"a": 1}', '{"a": 1}', id="optional-str-like-an-object"),
        pytest.param("number", "7", 7, id="int"),
        pytest.param("on", "yes", True, id="bool"),
        pytest.param("labels", '["a", "7"]', ["a", "7"], id="list"),
        pytest.param("sizes", "[1, 2]", (1, 2), id="tuple"),
        pytest.param("table", '{"a": [1]}', {"a": [1]}, id="dict"),
        pytest.param("path", "/x/[1]", Path("/x/[1]"), id="path"),
        pytest.param("path", "[1]", Path("[1]"), id="path-like-a-list"),
        pytest.param("nested.host", "h", Nested(host="h"), id="nested-str"),
        pytest.param("nested.port", "7", Nested(port=7), id="nested-int"),
        pytest.param("nested", '{"port": 7}', Nested(port=7), id="nested-in-json"),
    ],
)
def test_each_way_sets_each_type_of_setting(
    setting: str, text: str, value: Any, way: Any, levels: Levels
) -> None:
    """Text is parsed as the type of the handler's field, lists and objects as JSON."""
    given = way("fraud", f"settings.{setting}", text)
    settings, faults = settings_of(Handler, configured(levels, given))
    assert faults == []
    name = setting.split(".")[0]
    found = getattr(settings, name)
    assert (type(found), found) == (type(value), value)


def test_settings_in_json_keep_their_types() -> None:
    """Values that are typed in JSON reach the handler unchanged."""
    given = {"number": 7, "on": True, "labels": ["a"], "nested": {"port": 7}}
    text = json.dumps({"fraud": {"settings": given}})
    settings, faults = settings_of(Handler, read([f"--models={text}"], {})[0])
    assert faults == []
    assert settings == Handler.Settings.model_validate(given)


LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(table=st.dictionaries(st.text(), TREES, max_size=4))
def test_objects_in_json_reach_the_handler_unchanged(table: dict[str, Any]) -> None:
    """Any JSON object given as a setting reaches the handler unchanged."""
    text = json.dumps({"fraud": {"settings": {"table": table}}})
    settings, faults = settings_of(Handler, read([], {"OIP_MODELS": text})[0])
    assert faults == []
    assert isinstance(settings, Handler.Settings)
    assert settings.table == table


def test_settings_of_several_levels_merge(levels: Levels) -> None:
    """A level replaces single settings, also those within an object."""
    configuration = configured(
        levels,
        as_argument("fraud", "settings.nested.host", "argument"),
        as_variable("fraud", "settings.number", "7"),
        as_property("fraud", "settings.nested.host", "property"),
        as_json_variable("fraud", "settings.nested.port", "8"),
    )
    settings, faults = settings_of(Handler, configuration)
    assert faults == []
    expected = Handler.Settings(number=7, nested=Nested(host="argument", port=8))
    assert settings == expected


@each_way
def test_unknown_setting_is_a_fault_with_nearest_name(way: Any, levels: Levels) -> None:
    """A setting that the handler does not declare is reported as one fault."""
    given = way("fraud", "settings.lables", "x")
    _, faults = settings_of(Handler, configured(levels, given))
    assert len(faults) == 1
    assert faults[0].startswith(f"{given.source}: unknown setting, nearest: 'labels'")


class Strict:
    """A handler that forbids extra settings and has a setting with an alias."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        number: int = 0
        renamed: int = Field(0, alias="wire-name")


class Open:
    """A handler that accepts any setting."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="allow")


def test_settings_class_may_forbid_extra_settings(levels: Levels) -> None:
    """An unknown setting is reported once if the class itself forbids it."""
    given = as_argument("fraud", "settings.nummer", "7")
    _, faults = settings_of(Strict, configured(levels, given))
    assert faults == [f"{given.source}: unknown option, nearest: 'number'"]


def test_setting_is_set_by_its_alias(levels: Levels) -> None:
    """A field is set by the alias that the class gives it."""
    given = as_argument("fraud", "settings.wire-name", "7")
    settings, faults = settings_of(Strict, configured(levels, given))
    assert faults == []
    assert isinstance(settings, Strict.Settings)
    assert settings.renamed == 7


def test_settings_class_may_allow_extra_settings(levels: Levels) -> None:
    """An undeclared setting reaches a class that allows extra settings."""
    given = as_argument("fraud", "settings.anything", "x")
    settings, faults = settings_of(Open, configured(levels, given))
    assert faults == []
    assert settings is not None
    assert settings.model_extra == {"anything": "x"}


class Plain:
    """A handler that declares no settings."""


@each_way
def test_settings_for_handler_without_settings_are_faults(
    way: Any, levels: Levels
) -> None:
    """Settings for a handler that declares none are faults."""
    given = way("fraud", "settings.number", "7")
    settings, faults = settings_of(Plain, configured(levels, given))
    assert settings is None
    assert faults == [f"{given.source}: this handler takes no settings"]


def test_handler_without_settings_needs_none(levels: Levels) -> None:
    """A handler that declares no settings gets none."""
    assert settings_of(Plain, configured(levels)) == (None, [])


class Required:
    """A handler with two required settings."""

    class Settings(BaseModel):
        path: Path
        nested: Nested
        number: int = 0


def test_missing_required_settings_are_named(levels: Levels) -> None:
    """Each missing required setting has a line with its full name."""
    _, faults = settings_of(Required, configured(levels))
    assert faults == [
        "models.fraud.settings.path: required, but not set",
        "models.fraud.settings.nested: required, but not set",
    ]


def test_missing_setting_names_the_version() -> None:
    """The name of a missing setting includes a version that is not the default."""
    _, faults = build_settings(Required, ("fraud", "2"), {})
    assert faults[0].startswith("models.fraud@2.settings.path: ")


def test_faults_of_settings_are_reported_together(levels: Levels) -> None:
    """Unknown, missing and invalid settings are reported together."""
    given = [
        as_argument("fraud", "settings.number", "many"),
        as_variable("fraud", "settings.nested", "[1]"),
        as_property("fraud", "settings.other", "x"),
    ]
    _, faults = settings_of(Required, configured(levels, *given))
    sources = {fault.split(":")[0] for fault in faults}
    expected = {each.source for each in given} | {"models.fraud.settings.path"}
    assert sources == expected


# -- secrets ----------------------------------------------------------------------


class Guarded:
    """A handler with secrets by type and by name, and a validator of all settings."""

    class Settings(BaseModel):
        pin: SecretStr = Field(SecretStr("0000"), min_length=4)
        optional: SecretStr | None = None
        api_key: str = ""
        limit: int = 0

        @model_validator(mode="after")
        def _limited(self) -> Guarded.Settings:
            if self.limit > 9:
                raise ValueError("limit is too high")
            return self


def planned(handler: Any, configuration: Configuration, named: bool = True) -> Plan:
    """Return the plan for one model of a handler."""
    entry = HandlerEntry("fraud", "tests:Handler", lambda: handler)
    choice = Choice(Item("fraud", "fraud"), entry, named)
    return plan([choice], configuration.origins, Wiring(None, Observer(), Cluster()))


def shown(plans: Sequence[Any]) -> Mapping[str, tuple[str, str]]:
    """Return the effective options of a planned model: value and source by name."""
    return {row[0]: (row[1], row[2]) for row in plans[0].list_effective()}


def test_effective_options_of_a_model(levels: Levels) -> None:
    """Each option of a model, defaults too, is listed with its value and source."""
    given = [
        as_argument("fraud", "max_queue", "7"),
        as_variable("fraud", "settings.limit", "3"),
    ]
    result = planned(Guarded, configured(levels, *given))
    assert result.faults == ()
    assert shown(result.models) == {
        "models.fraud.max_concurrency": ("None", "default"),
        "models.fraud.timeout_s": ("300.0", "default"),
        "models.fraud.max_batch_size": ("1", "default"),
        "models.fraud.max_batch_delay_ms": ("0.0", "default"),
        "models.fraud.check_metadata": ("False", "default"),
        "models.fraud.replicas": ("None", "default"),
        "models.fraud.autoscaling": ("None", "default"),
        "models.fraud.max_queue": ("'7'", "--models.fraud.max_queue"),
        "models.fraud.settings.limit": ("'3'", "OIP_MODELS__FRAUD__SETTINGS__LIMIT"),
    }


@each_way
@pytest.mark.parametrize("setting", ["pin", "optional", "api_key"])
def test_secrets_are_masked(setting: str, way: Any, levels: Levels) -> None:
    """A secret, by type or by name, reaches the handler and is masked in listings."""
    given = way("fraud", f"settings.{setting}", "hunter2")
    configuration = configured(levels, given)
    settings, faults = settings_of(Guarded, configuration)
    assert faults == []
    value = getattr(settings, setting)
    assert (value if isinstance(value, str) else value.get_secret_value()) == "hunter2"
    result = planned(Guarded, configuration)
    masks = ("********", given.source)
    assert shown(result.models)[f"models.fraud.settings.{setting}"] == masks
    assert "hunter2" not in str(shown(result.models))


def test_fault_of_a_secret_does_not_show_it(levels: Levels) -> None:
    """The fault of an invalid secret does not show its value."""
    given = as_argument("fraud", "settings.pin", "abc")
    faults = planned(Guarded, configured(levels, given)).faults
    assert len(faults) == 1
    assert faults[0].startswith(f"{given.source}: found ********, ")


def test_fault_of_a_validator_does_not_show_secrets(levels: Levels) -> None:
    """The fault of a validator of all settings is its message, without any values."""
    given = [
        as_argument("fraud", "settings.pin", "hunter2"),
        as_argument("fraud", "settings.limit", "10"),
    ]
    faults = planned(Guarded, configured(levels, *given)).faults
    assert faults == ("models.fraud.settings: Value error, limit is too high",)


def test_check_shows_settings_and_masks_secrets(tmp_path: Path) -> None:
    """`oip-host check` prints handler settings with their sources and masks secrets."""
    env = {"OIP_MODELS__FRAUD__SETTINGS__PASSWORD": "hunter2"}
    done = oip_host(
        "check", "--json", "--handlers=fraud=fakes:Configured",
        f"--models.fraud.settings.path={tmp_path}", env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row.pop("option"): row for row in json.loads(done.stdout)["settings"]}
    path = "models.fraud.settings.path"
    assert rows[path] == {"value": repr(str(tmp_path)), "source": f"--{path}"}
    masks = {"value": "********", "source": next(iter(env))}
    assert rows["models.fraud.settings.password"] == masks
    assert "hunter2" not in done.stdout + done.stderr


# -- skipping ---------------------------------------------------------------------


def test_unselected_handler_without_its_settings_is_skipped(levels: Levels) -> None:
    """A handler not selected by name is skipped if it lacks a setting."""
    result = planned(Configured, configured(levels), named=False)
    assert (result.models, result.faults, result.warnings) == ((), (), ())
    reasons = [(each.handler, each.reason) for each in result.skipped]
    assert reasons == [("fraud", "needs models.fraud.settings.path")]


def test_selected_handler_without_its_settings_is_a_fault(levels: Levels) -> None:
    """A handler selected by name that lacks a setting is a configuration fault."""
    result = planned(Configured, configured(levels))
    assert result.faults == ("models.fraud.settings.path: required, but not set",)
    assert (result.skipped, result.warnings) == ((), ())


def test_handler_with_some_settings_is_not_skipped(levels: Levels) -> None:
    """A handler not selected by name is not skipped if any of its settings is set."""
    given = as_argument("fraud", "settings.scale", "2")
    result = planned(Configured, configured(levels, given), named=False)
    assert result.faults == ("models.fraud.settings.path: required, but not set",)
    assert (result.skipped, result.warnings) == ((), ())


# -- replicas -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (
            {"num_cpus": 2, "idempotent": True},
            "num_cpus, idempotent: only for a model with replicas or autoscaling",
        ),
        (
            {"replicas": 1, "autoscaling": {"max": 2}},
            "replicas and autoscaling are set, expected one of them",
        ),
        (
            {"autoscaling": {"min": 3, "max": 2}},
            "min is 3, expected at most 2, the max",
        ),
        ({"autoscaling": {"max": 2, "most": 2}}, "unknown option"),
        ({"autoscaling": {"min": 2}}, "autoscaling.max"),
        ({"replicas": 0}, "expected greater than or equal to 1"),
        ({"replicas": 1, "resources": "tpu"}, "expected a valid dictionary"),
    ],
    ids=["stray", "both", "order", "unknown", "no max", "none", "no object"],
)
def test_conflicting_replica_options_are_faults(
    levels: Levels, given: dict[str, Any], fault: str
) -> None:
    """Invalid replica options are faults that say what is wrong."""
    document = json.dumps({"fraud": given})
    configuration = configured(levels, Given("", environ={"OIP_MODELS": document}))
    values, _ = group_by_model(configuration.origins, [FRAUD])
    options, faults = parse_model_options(FRAUD, values[FRAUD])
    assert options is None
    assert fault in "\n".join(faults)


def test_replica_options_are_passed_to_ray_serve() -> None:
    """The options that an operator sets are passed to Ray Serve."""
    options = ModelOptions(
        replicas=2,
        num_cpus=0.5,
        resources={"tpu": 1.0},
        py_executable="/opt/fraud/bin/python",
        runtime_env={"env_vars": {"A": "b"}},
    )
    asked = deployment_options(Configured, options)
    assert 2 == asked["num_replicas"]
    assert 4 == asked["max_ongoing_requests"]  # one running, and three more
    environment = {"env_vars": {"A": "b"}, "py_executable": "/opt/fraud/bin/python"}
    actor = {"num_cpus": 0.5, "resources": {"tpu": 1.0}, "runtime_env": environment}
    assert actor == asked["ray_actor_options"]


def test_replicas_need_ray(levels: Levels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, a model with replicas is a fault that says what to install."""
    given = as_argument("fraud", "replicas", "2")
    monkeypatch.setattr("oip_host.host.replication.find_spec", lambda name: None)
    assert (
        "models.fraud: replicas need Ray, which is not installed: "
        "pip install 'oip-host[ray]'",
    ) == planned(Echo, configured(levels, given)).faults


def test_packages_of_replicas_need_pip(
    levels: Levels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `runtime_env` with pip packages is a fault if pip is not installed.

    Ray itself would fail only minutes later and give the reason in a file.
    """
    found = {"ray": True}
    monkeypatch.setattr("oip_host.host.replication.find_spec", found.get)
    document = {"fraud": {"replicas": 1, "runtime_env": {"pip": ["humanize"]}}}
    given = Given("", environ={"OIP_MODELS": json.dumps(document)})
    faults = planned(Echo, configured(levels, given)).faults
    assert 1 == len(faults)
    assert "models.fraud.runtime_env: Ray installs packages with pip" in faults[0]


def test_handler_of_replicas_only_is_not_imported(levels: Levels) -> None:
    """The host does not import a handler that runs in another Python environment.

    All its settings are masked, since the host cannot know which are secrets.
    """

    def fail() -> Any:
        raise AssertionError("imported")

    entry = HandlerEntry("fraud", "nowhere:Handler", fail)
    given = [
        as_argument("fraud", "py_executable", "/opt/fraud/bin/python"),
        as_argument("fraud", "replicas", "1"),
        as_argument("fraud", "settings.key", "geheim"),
    ]
    choice = Choice(Item("fraud", "fraud"), entry, True)
    wiring = Wiring(None, Observer(), Cluster())
    result = plan([choice], configured(levels, *given).origins, wiring)
    assert () == result.faults
    assert "geheim" not in str(shown(result.models))

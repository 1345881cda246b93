"""The server's options: names, levels, precedence and rejected values."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from krausening.properties import PropertyEncryptor

from oip_host.config.configuration import Configuration, read
from oip_host.config.settings import Settings
from oip_host.config.sources import flag
from oip_host.kserve.api import kserve
from support.configuration import Levels
from support.process import oip_host, run

LEVELS = ("argument", "environment", "property")


@dataclass(frozen=True)
class Option:
    """A row of aiSSEMBLE's table, with three other values as text and as parsed."""

    name: str
    argument: str
    variable: str
    default: Any
    values: tuple[tuple[str, Any], ...]

    def source(self, level: str) -> str:
        return {
            "argument": self.argument,
            "environment": self.variable,
            "property": f"{self.name} in oip.properties",
            "default": "default",
        }[level]

    def given(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return the arguments of `Levels.read` that set a text at each level."""
        levels: dict[str, Any] = {}
        if "argument" in texts:
            levels["arguments"] = [f"{self.argument}={texts['argument']}"]
        if "environment" in texts:
            levels["environ"] = {self.variable: texts["environment"]}
        if "property" in texts:
            levels["properties"] = {self.name: texts["property"]}
        return levels


INTEGERS = (("9001", 9001), ("9002", 9002), ("9003", 9003))
OFF_FIRST = (("false", False), ("true", True), ("off", False))
ON_FIRST = (("true", True), ("false", False), ("on", True))
TEXTS = (("%(a)s", "%(a)s"), ("%(b)s", "%(b)s"), ("%(c)s", "%(c)s"))
TABLE = [
    Option("kserve_http_port", "--http_port", "KSERVE_HTTP_PORT", 8080, INTEGERS),
    Option("kserve_grpc_port", "--grpc_port", "KSERVE_GRPC_PORT", 8081, INTEGERS),
    Option("kserve_workers", "--workers", "KSERVE_WORKERS", 1, INTEGERS),
    Option("kserve_max_threads", "--max_threads", "KSERVE_MAX_THREADS", 4, INTEGERS),
    Option(
        "kserve_max_asyncio_workers",
        "--max_asyncio_workers",
        "KSERVE_MAX_ASYNCIO_WORKERS",
        None,
        INTEGERS,
    ),
    Option(
        "kserve_enable_grpc", "--enable_grpc", "KSERVE_ENABLE_GRPC", True, OFF_FIRST
    ),
    Option(
        "kserve_enable_docs_url",
        "--enable_docs_url",
        "KSERVE_ENABLE_DOCS_URL",
        False,
        ON_FIRST,
    ),
    Option(
        "kserve_enable_latency_logging",
        "--enable_latency_logging",
        "KSERVE_ENABLE_LATENCY_LOGGING",
        True,
        OFF_FIRST,
    ),
    Option(
        "kserve_access_log_format",
        "--access_log_format",
        "KSERVE_ACCESS_LOG_FORMAT",
        None,
        TEXTS,
    ),
]
BOOLEANS = [option for option in TABLE if isinstance(option.default, bool)]
OPTIONALS = [option for option in TABLE if option.default is None]
each_option = pytest.mark.parametrize("option", TABLE, ids=lambda o: o.name)


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Levels:
    return Levels(tmp_path, monkeypatch)


def effective(configuration: Configuration, name: str) -> tuple[str, str]:
    """Return an option's value and source, as `check` shows them."""
    rows = {row[0]: (row[1], row[2]) for row in configuration.list_effective()}
    return rows[name]


# -- the table --------------------------------------------------------------------


def test_first_nine_options_match_the_table() -> None:
    """aiSSEMBLE's nine options come first, in its order, before the host's own."""
    names = list(Settings.model_fields)
    assert names[:9] == [option.name for option in TABLE]
    assert all(name.startswith(("oip_", "auth_")) for name in names[9:])


@each_option
def test_argument_and_variable_match_the_table(option: Option) -> None:
    """An option's argument and variable are those in the table."""
    assert flag(option.name) == option.argument
    assert option.name.upper() == option.variable


# -- levels: 4 × 9, and their conflicts -------------------------------------------


@each_option
def test_unset_option_has_the_default(option: Option, levels: Levels) -> None:
    """An option that is not set has the table's default, with the source `default`."""
    configuration, faults = levels.read()
    assert faults == []
    assert getattr(configuration.settings, option.name) == option.default
    assert effective(configuration, option.name) == (str(option.default), "default")


@each_option
@pytest.mark.parametrize("level", LEVELS)
def test_each_level_sets_each_option(
    level: str, option: Option, levels: Levels
) -> None:
    """Each level alone sets the option and is shown as the source of the value."""
    for text, value in option.values:
        configuration, faults = levels.read(**option.given({level: text}))
        assert faults == []
        found = getattr(configuration.settings, option.name)
        assert (type(found), found) == (type(value), value)
        expected = (str(value), option.source(level))
        assert effective(configuration, option.name) == expected


@each_option
@pytest.mark.parametrize("pair", list(combinations(LEVELS, 2)), ids="-over-".join)
def test_higher_of_two_levels_wins(
    pair: tuple[str, str], option: Option, levels: Levels
) -> None:
    """An argument beats the environment, which beats a property, for any values."""
    high, low = pair
    first, second = option.values[:2]
    for above, below in ((first, second), (second, first)):
        texts = {high: above[0], low: below[0]}
        configuration, faults = levels.read(**option.given(texts))
        assert faults == []
        assert getattr(configuration.settings, option.name) == above[1]
        assert effective(configuration, option.name)[1] == option.source(high)


@each_option
def test_argument_wins_over_all_levels(option: Option, levels: Levels) -> None:
    """If every level sets a value, the argument's value is in effect."""
    texts = {
        level: text
        for level, (text, _) in zip(LEVELS, option.values, strict=True)
    }  # fmt: skip
    configuration, _ = levels.read(**option.given(texts))
    assert getattr(configuration.settings, option.name) == option.values[0][1]


@each_option
def test_higher_level_can_restore_the_default(option: Option, levels: Levels) -> None:
    """A default given as an argument overrides a property and is shown as given."""
    text = "" if option.default is None else str(option.default)
    given = option.given({"argument": text, "property": option.values[0][0]})
    configuration, faults = levels.read(**given)
    assert faults == []
    assert getattr(configuration.settings, option.name) == option.default
    assert effective(configuration, option.name)[1] == option.argument


@each_option
def test_argument_in_two_tokens(option: Option, levels: Levels) -> None:
    """`--flag value` is the same as `--flag=value`; the last of several wins."""
    first, last = option.values[:2]
    arguments = [option.argument, first[0], option.argument, last[0]]
    configuration, faults = levels.read(arguments)
    assert faults == []
    assert getattr(configuration.settings, option.name) == last[1]


def test_all_levels_reach_the_command(tmp_path: Path) -> None:
    """`oip-host check` resolves all four levels in its own process."""
    (tmp_path / "oip.properties").write_text(
        "kserve_http_port=9003\nkserve_grpc_port=9003\nkserve_workers=1\n"
        "oip_bind=127.0.0.1\n"
    )
    env = {
        "KRAUSENING_BASE": str(tmp_path),
        "KSERVE_HTTP_PORT": "9002",
        "KSERVE_GRPC_PORT": "9002",
        "OIP_HANDLERS": "fakes:LoadRaises",
    }
    done = oip_host(
        "check", "--json", "--http_port=9001", "--handlers=fakes:Echo", env=env
    )
    assert done.returncode == 0, done.stderr
    rows = {
        row["option"]: (row["value"], row["source"])
        for row in json.loads(done.stdout)["settings"]
    }
    assert rows["kserve_http_port"] == ("9001", "--http_port")
    assert rows["kserve_grpc_port"] == ("9002", "KSERVE_GRPC_PORT")
    assert rows["oip_bind"] == ("127.0.0.1", "oip_bind in oip.properties")
    assert rows["kserve_max_threads"] == ("4", "default")
    assert rows["oip_handlers"] == ("fakes:Echo", "--handlers")


# -- values -----------------------------------------------------------------------

TRUE = ("y", "yes", "t", "true", "on", "1")
FALSE = ("n", "no", "f", "false", "off", "0")
SPELLINGS = [
    cased
    for word in (*TRUE, *FALSE)
    for cased in dict.fromkeys((word, word.upper(), word.title()))
]


@pytest.mark.parametrize("option", BOOLEANS, ids=lambda option: option.name)
@pytest.mark.parametrize("level", LEVELS)
def test_booleans_in_every_spelling_of_kserve(
    level: str, option: Option, levels: Levels
) -> None:
    """Every spelling that KServe's `strtobool` accepts is accepted, in any case."""
    for spelling in SPELLINGS:
        configuration, faults = levels.read(**option.given({level: spelling}))
        assert faults == [], spelling
        expected = kserve.utils.strtobool(spelling)
        assert expected is getattr(configuration.settings, option.name), spelling


@pytest.mark.parametrize(
    "text",
    ["", "2", "-1", "01", "1.0", "maybe", "tru", "truee", "None", " true", "oui"],
)
def test_other_boolean_spellings_are_rejected(text: str, levels: Levels) -> None:
    """A spelling that `strtobool` rejects is a fault; the default stays in effect."""
    with pytest.raises(ValueError, match="invalid truth value"):
        kserve.utils.strtobool(text)
    for option in BOOLEANS:
        configuration, faults = levels.read([f"{option.argument}={text}"])
        assert len(faults) == 1
        assert faults[0].startswith(f"{option.argument}: found {text!r}, expected")
        assert getattr(configuration.settings, option.name) == option.default


@pytest.mark.parametrize("option", OPTIONALS, ids=lambda option: option.name)
@pytest.mark.parametrize("level", LEVELS)
def test_empty_value_of_optional_option_is_none(
    level: str, option: Option, levels: Levels
) -> None:
    """An empty value of an optional option is `None`, at every level."""
    configuration, faults = levels.read(**option.given({level: ""}))
    assert faults == []
    assert getattr(configuration.settings, option.name) is None
    assert effective(configuration, option.name)[1] == option.source(level)


@pytest.mark.parametrize(
    "option", [o for o in TABLE if o not in OPTIONALS], ids=lambda option: option.name
)
@pytest.mark.parametrize("level", LEVELS)
def test_empty_value_of_other_options_is_rejected(
    level: str, option: Option, levels: Levels
) -> None:
    """An empty value of any other option is a fault that names where it was set."""
    configuration, faults = levels.read(**option.given({level: ""}))
    assert len(faults) == 1
    assert faults[0].startswith(f"{option.source(level)}: found '', expected")
    assert getattr(configuration.settings, option.name) == option.default


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("text", ["abc", "80a", "8080.5", "1e3", "0x50", "None"])
def test_text_for_a_number_is_rejected(text: str, level: str, levels: Levels) -> None:
    """A value that is not an integer is a fault with the text and what is expected."""
    option = TABLE[0]
    configuration, faults = levels.read(**option.given({level: text}))
    assert faults == [
        f"{option.source(level)}: found {text!r}, expected a valid integer"
    ]
    assert configuration.settings.kserve_http_port == 8080


@pytest.mark.parametrize("option", TABLE[:2], ids=lambda option: option.name)
@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("-1", "expected greater than or equal to 0"),
        ("65536", "expected less than or equal to 65535"),
        ("99999999999999999999", "expected less than or equal to 65535"),
    ],
)
def test_port_out_of_range_is_rejected(
    port: str, expected: str, option: Option, levels: Levels
) -> None:
    """A port is between 0, which means any free port, and 65535."""
    _, faults = levels.read([f"{option.argument}={port}"])
    assert faults == [f"{option.argument}: found {port!r}, {expected}"]


@pytest.mark.parametrize("port", ["0", "65535"])
def test_port_at_the_edge_of_its_range_is_accepted(port: str, levels: Levels) -> None:
    """The lowest and the highest port are accepted."""
    configuration, faults = levels.read([f"--http_port={port}"])
    assert faults == []
    assert configuration.settings.kserve_http_port == int(port)


@pytest.mark.parametrize(
    ("argument", "least"),
    [
        ("--workers=0", "1"),
        ("--max_threads=0", "1"),
        ("--max_asyncio_workers=0", "1"),
        ("--drain_delay_s=-0.1", "0"),
        ("--grace_period_s=-1", "0"),
        ("--max_body_bytes=0", "1"),
    ],
)
def test_number_below_its_minimum_is_rejected(
    argument: str, least: str, levels: Levels
) -> None:
    """A number below the minimum is a fault that names the minimum."""
    name, _, value = argument.partition("=")
    _, faults = levels.read([argument])
    expected = f"{name}: found {value!r}, expected greater than or equal to {least}"
    assert faults == [expected]


# -- unknown names ----------------------------------------------------------------


def test_unknown_property_is_a_fault_with_nearest_name(levels: Levels) -> None:
    """An unknown property is a fault; the other properties still take effect."""
    configuration, faults = levels.read(
        properties={"kserve_htp_port": "1", "kserve_grpc_port": "9003"}
    )
    assert len(faults) == 1
    assert faults[0].startswith(
        "oip.properties: unknown property 'kserve_htp_port', nearest: "
        "'kserve_http_port'"
    )
    assert configuration.settings.kserve_grpc_port == 9003


def test_no_similar_property_means_no_nearest_name(levels: Levels) -> None:
    """No nearest name is suggested if no property has a similar name."""
    _, faults = levels.read(properties={"zzz": "1"})
    assert faults == ["oip.properties: unknown property 'zzz'"]


def test_unknown_argument_is_left_for_kserve(levels: Levels) -> None:
    """Other arguments keep their order and spelling, and do not abbreviate options."""
    others = ["--log_config_file", "x.yaml", "--http=1", "--grpc_max_send_message=2"]
    configuration, faults = levels.read(["--http_port=9001", *others])
    assert faults == []
    assert configuration.kserve_arguments == tuple(others)
    assert configuration.settings.kserve_http_port == 9001


def test_unknown_argument_stops_the_command() -> None:
    """`check` rejects an unknown argument with the nearest name and exit code 2."""
    done = oip_host("check", "--handlers=fakes:Echo", "--http_prot=1")
    assert done.returncode == 2
    assert (
        "error: unknown argument '--http_prot=1', nearest: '--http_port'" in done.stderr
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("OIP_HANDLER", "OIP_HANDLER: no such option, nearest: 'OIP_HANDLERS'"),
        ("KSERVE_HTTP_PROT", "KSERVE_HTTP_PROT: no such option, nearest: "),
    ],
)
def test_misspelt_variable_is_a_warning(
    name: str, expected: str, levels: Levels
) -> None:
    """A variable whose name resembles an option's is a warning, not a fault."""
    configuration, faults = levels.read(environ={name: "1"})
    assert faults == []
    assert len(configuration.warnings) == 1
    assert configuration.warnings[0].startswith(expected)


@pytest.mark.parametrize(
    "name",
    [
        "HTTP_PORT",
        "KSERVE_HTTP_PORT",
        "KSERVE_LOGLEVEL",
        "KSERVE_TLS_CERT_FILE",
        "OIP_WORKER",
        "OIP_MODELS__A__B",
        "OIP_HOST_SERVICE_HOST",
    ],
)
def test_other_variables_give_no_warning(name: str, levels: Levels) -> None:
    """Variables of KServe, options, models or other programs give no warning."""
    configuration, _ = levels.read(environ={name: "1"})
    assert configuration.warnings == ()


# -- faults together --------------------------------------------------------------


def test_faults_of_all_levels_are_reported_together(levels: Levels) -> None:
    """Every fault of every level has one line; the valid values still take effect."""
    configuration, faults = levels.read(
        arguments=["--http_port=x", "--max_threads", "--models=[", "--workers=3"],
        environ={"KSERVE_ENABLE_GRPC": "maybe", "OIP_MODELS": "5"},
        properties={
            "kserve_grpc_port": "70000",
            "kserve_wrkers": "2",
            "oip_bind": "127.0.0.1",
        },
    )
    sources = sorted(fault.split(":")[0] for fault in faults)
    assert sources == [
        "--http_port",
        "--max_threads",
        "--models",
        "KSERVE_ENABLE_GRPC",
        "OIP_MODELS",
        "kserve_grpc_port in oip.properties",
        "oip.properties",
    ]
    settings = configuration.settings
    assert (settings.kserve_workers, settings.oip_bind) == (3, "127.0.0.1")
    assert (settings.kserve_http_port, settings.kserve_grpc_port) == (8080, 8081)


def test_fault_at_higher_level_is_reported(levels: Levels) -> None:
    """An invalid argument is a fault even if the environment has a valid value."""
    configuration, faults = levels.read(
        ["--http_port=x"], environ={"KSERVE_HTTP_PORT": "9002"}
    )
    assert faults == ["--http_port: found 'x', expected a valid integer"]
    assert configuration.settings.kserve_http_port == 8080


def test_fault_at_overridden_level_is_ignored(levels: Levels) -> None:
    """An invalid value that is overridden is not a fault."""
    configuration, faults = levels.read(
        ["--http_port=9001"], environ={"KSERVE_HTTP_PORT": "x"}
    )
    assert faults == []
    assert configuration.settings.kserve_http_port == 9001


@pytest.mark.parametrize(
    "arguments",
    [["--http_port"], ["--http_port", "--workers=2"]],
    ids=["last", "before another"],
)
def test_argument_without_a_value_is_a_fault(
    arguments: Sequence[str], levels: Levels
) -> None:
    """An argument without a value is exactly one fault."""
    _, faults = levels.read(arguments)
    assert faults == ["--http_port: found no value, expected --http_port=…"]


WORDS = st.one_of(
    st.sampled_from(
        ["--http_port", "--models", "--models.a.b", "--handlers=", "--models={}", "--"]
    ),
    st.sampled_from(["--http_port=", "--models=", "--models.", "-"]).flatmap(
        lambda prefix: st.text().map(lambda text: prefix + text)
    ),
    st.text(),
)


@given(arguments=st.lists(WORDS, max_size=5))
def test_arbitrary_arguments_never_raise(arguments: list[str]) -> None:
    """Any arguments give a configuration and a list of faults."""
    configuration, faults = read(arguments, {})
    assert isinstance(configuration.settings, Settings)
    assert all(isinstance(fault, str) and fault for fault in faults)


# -- Krausening -------------------------------------------------------------------

EXTENSIONS = "KRAUSENING_EXTENSIONS"
OVERRIDES = "KRAUSENING_OVERRIDE_EXTENSIONS"


def encrypted(text: str, password: str) -> str:
    """Return a property's value as Krausening's own tool encrypts it."""
    return f"ENC({PropertyEncryptor().encrypt(text, password.encode())!s})"


def test_properties_need_a_krausening_variable(levels: Levels) -> None:
    """Without a Krausening variable, no file is read and Krausening is not imported."""
    (levels.directory / "oip.properties").write_text("kserve_http_port=9003\n")
    program = (
        "import sys; from oip_host.config.configuration import read; read([]);"
        "assert not [name for name in sys.modules if 'krausening' in name]"
    )
    done = run(sys.executable, "-c", program, cwd=levels.directory)
    assert done.returncode == 0, done.stderr
    assert levels.read()[0].settings.kserve_http_port == 8080


def test_later_krausening_layers_override_earlier_ones(levels: Levels) -> None:
    """The base, extensions and override extensions add and replace, in this order."""
    names = ["kserve_http_port", "kserve_grpc_port", "kserve_workers", "oip_bind"]
    levels.properties(dict(zip(names, ("1", "1", "1", "base"), strict=True)))
    levels.properties(dict.fromkeys(names[:2], "2"), EXTENSIONS)
    levels.properties(dict.fromkeys(names[:1], "3"), OVERRIDES)
    configuration, faults = levels.read()
    assert faults == []
    found = [getattr(configuration.settings, name) for name in names]
    assert found == [3, 2, 1, "base"]


@pytest.mark.parametrize("layer", ["KRAUSENING_BASE", EXTENSIONS, OVERRIDES])
def test_each_krausening_layer_works_alone(layer: str, levels: Levels) -> None:
    """Each of the three directories works without the other two."""
    levels.properties({"kserve_http_port": "9003"}, layer)
    configuration, faults = levels.read()
    assert faults == []
    assert configuration.settings.kserve_http_port == 9003


def test_properties_are_as_krausening_reads_them(levels: Levels) -> None:
    """The host reads the values that Krausening's `PropertyManager` reads."""
    base = {
        "kserve_access_log_format": "caf\\u00e9 = $OIP_TEST_WORD ${OIP_TEST_NONE}",
        "models.a.settings.text": "two \\\n    lines",
        "models.a.settings.key": encrypted("behind $OIP_TEST_WORD", "pass word"),
        "models.a.settings.below": "base",
        "models.b.c.settings.path\\ name": "x",
    }
    levels.properties(base)
    levels.properties({"models.a.settings.below": "extension"}, EXTENSIONS)
    levels.properties({"models.a.settings.below": "override"}, OVERRIDES)
    levels.monkeypatch.setenv("KRAUSENING_PASSWORD", "pass word")
    levels.monkeypatch.setenv("OIP_TEST_WORD", "word")
    program = (
        "import json; from krausening.properties import PropertyManager;"
        "found = PropertyManager.get_instance().get_properties('oip.properties');"
        "print(json.dumps({key: found[key] for key in found}))"
    )
    variables = ("KRAUSENING_BASE", EXTENSIONS, OVERRIDES, "KRAUSENING_PASSWORD")
    env = {name: os.environ[name] for name in variables}
    done = run(sys.executable, "-c", program, env={**env, "OIP_TEST_WORD": "word"})
    expected = json.loads(done.stdout)
    assert expected["kserve_access_log_format"] == "café = word ${OIP_TEST_NONE}"
    configuration, faults = levels.read()
    assert faults == []
    found = {
        origin.source.removesuffix(" in oip.properties"): origin.value
        for origin in configuration.origins.values()
    }
    assert found == expected


def test_encrypted_property_is_decrypted_and_masked(levels: Levels) -> None:
    """`ENC(...)` takes effect decrypted, and is masked in listings."""
    levels.monkeypatch.setenv("KRAUSENING_PASSWORD", "pass word")
    configuration, faults = levels.read(
        properties={
            "kserve_http_port": encrypted("9003", "pass word"),
            "kserve_grpc_port": "9004",
        }
    )
    assert faults == []
    assert configuration.settings.kserve_http_port == 9003
    source = "kserve_http_port in oip.properties"
    assert effective(configuration, "kserve_http_port") == ("********", source)
    assert effective(configuration, "kserve_grpc_port")[0] == "9004"
    assert "9003" not in str(list(configuration.list_effective()))


def test_invalid_secret_is_not_shown(levels: Levels) -> None:
    """The fault of an encrypted value names its property and not the decrypted text."""
    levels.monkeypatch.setenv("KRAUSENING_PASSWORD", "pass word")
    secret = encrypted("hunter2", "pass word")
    _, faults = levels.read(properties={"kserve_http_port": secret})
    source = "kserve_http_port in oip.properties"
    assert faults == [f"{source}: found ********, expected a valid integer"]


def test_argument_over_a_secret_is_shown(levels: Levels) -> None:
    """Only the value in effect is masked: an argument over `ENC(...)` is shown."""
    levels.monkeypatch.setenv("KRAUSENING_PASSWORD", "pass word")
    configuration, _ = levels.read(
        ["--http_port=9001"],
        properties={"kserve_http_port": encrypted("9003", "pass word")},
    )
    assert effective(configuration, "kserve_http_port") == ("9001", "--http_port")


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("wrong", "does not decrypt with KRAUSENING_PASSWORD"),
        ("", "is encrypted, set KRAUSENING_PASSWORD"),
        (None, "is encrypted, set KRAUSENING_PASSWORD"),
    ],
    ids=["wrong", "empty", "missing"],
)
def test_each_value_that_does_not_decrypt_is_a_fault(
    password: str | None, expected: str, levels: Levels
) -> None:
    """A wrong or missing password is a fault for each encrypted value.

    The other values still take effect.
    """
    if password is not None:
        levels.monkeypatch.setenv("KRAUSENING_PASSWORD", password)
    names = ["kserve_http_port", "models.fraud.settings.key"]
    secrets = {name: encrypted("9003", "pass word") for name in names}
    configuration, faults = levels.read(properties={**secrets, "kserve_workers": "2"})
    assert faults == [f"oip.properties: {name} {expected}" for name in names]
    assert configuration.settings.kserve_http_port == 8080
    assert configuration.settings.kserve_workers == 2


@pytest.mark.parametrize("value", ["ENC(", "ENC()", "ENC(no base64!)", "ENC(abcd)"])
def test_damaged_encrypted_value_is_a_fault(value: str, levels: Levels) -> None:
    """Damaged `ENC(...)` is one fault, which does not show the value."""
    levels.monkeypatch.setenv("KRAUSENING_PASSWORD", "pass word")
    _, faults = levels.read(properties={"kserve_http_port": value})
    assert len(faults) == 1
    assert "kserve_http_port" in faults[0]
    assert value not in faults[0]


@pytest.mark.parametrize("layer", ["KRAUSENING_BASE", EXTENSIONS, OVERRIDES])
def test_missing_krausening_directory_is_a_fault(layer: str, levels: Levels) -> None:
    """A Krausening variable with a missing directory is a fault under its name."""
    missing = levels.directory / "missing"
    levels.monkeypatch.setenv(layer, str(missing))
    configuration, faults = levels.read(["--workers=3"])
    assert faults == [f"{layer}: found '{missing}', expected a directory"]
    assert configuration.settings.kserve_workers == 3


def test_directories_without_properties_give_a_warning(levels: Levels) -> None:
    """A missing `oip.properties` is a warning: the directory may serve others."""
    levels.monkeypatch.setenv("KRAUSENING_BASE", str(levels.directory))
    configuration, faults = levels.read()
    assert faults == []
    assert (f"no oip.properties in {levels.directory}",) == configuration.warnings


def test_unreadable_properties_file_is_a_fault(levels: Levels) -> None:
    """A file that is not a valid properties file is a fault with its path."""
    file = levels.properties({})
    file.write_bytes(b"kserve_http_port=\\u00zz")
    _, faults = levels.read()
    assert len(faults) == 1
    assert faults[0].startswith(f"could not read {file}: ")


def test_properties_are_read_anew_each_time(levels: Levels) -> None:
    """A changed file is read again in the same process."""
    levels.read(properties={"kserve_http_port": "9003", "kserve_workers": "2"})
    configuration, _ = levels.read(properties={"kserve_http_port": "9004"})
    settings = configuration.settings
    assert (settings.kserve_http_port, settings.kserve_workers) == (9004, 1)


def test_reading_leaves_no_thread_behind(levels: Levels) -> None:
    """Reading the options starts no thread that watches their directories."""
    before = threading.active_count()
    levels.read(properties={"kserve_http_port": "9003"})
    assert before == threading.active_count()

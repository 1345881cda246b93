"""The pages on the protocol and its errors list exactly what the edges serve."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import oip_host
from oip_handler import boundary, errors
from oip_handler.datatypes import Datatype, numpy_dtype
from oip_host.config.model_options import ModelOptions
from oip_host.config.settings import Settings
from oip_host.edge.grpc import codec as grpc_codec
from oip_host.edge.grpc.messages import SERVICE, pool
from oip_host.edge.rest import compression
from oip_host.edge.rest import routes as v2
from oip_host.kserve.api import kserve
from oip_host.kserve.errors import from_kserve
from oip_host.models.server_state import EXTENSIONS
from support.documents import cases, page, plain, quoted, tables

MODEL, REPOSITORY = "/v2/models/<name>", "/v2/repository/models/<name>"


def routes() -> Iterator[tuple[str, str, str]]:
    """Yield each route of the REST edge: method, path and the name of its action."""
    paths = dict(v2.SERVER)
    for base, below in (
        (MODEL, v2.MODEL),
        (REPOSITORY, v2.REPOSITORY),
    ):
        paths |= {"/".join((base, *parts)): action for parts, action in below.items()}
    for path, action in paths.items():
        yield v2.find_route(path).method, path, action


def test_every_route_is_listed() -> None:
    """The table has the method and path of each route, in the order of the code."""
    rows = tables("protocol.md")["method|path"]
    assert [(r[0], plain(r[1])) for r in rows] == [route[:2] for route in routes()]


def test_every_route_has_statuses_that_exist() -> None:
    """The statuses listed for a route are those of error classes."""
    known = {str(kind.http_status) for kind in errors_in_order()}
    for row in tables("protocol.md")["method|path"]:
        assert set(row[3].split(", ")) - {""} <= known, row


def test_every_rpc_is_listed_with_its_route() -> None:
    """The RPCs are those of the compiled proto, each with a REST route."""
    rows = tables("protocol.md")["RPC|as by REST"]
    listed = [plain(row[0]) for row in rows]
    assert listed == [m.name for m in pool.FindServiceByName(SERVICE).methods]
    paths = {path for _, path, _ in routes()}
    assert {plain(row[1]) for row in rows} <= paths


def test_every_standard_service_is_listed() -> None:
    """Health and reflection are listed with the RPCs of the installed services."""
    rows = tables("protocol.md")["service|RPCs"]
    services = [
        service
        for module in (health_pb2, reflection_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    assert {plain(row[0]): quoted(row[1]) for row in rows} == {
        service.full_name: [m.name for m in service.methods] for service in services
    }
    assert f"`{SERVICE}`" in page("protocol.md")


def test_every_extension_is_listed() -> None:
    """The extensions are those that the server declares."""
    rows = tables("protocol.md")["extension|support"]
    assert [plain(row[0]) for row in rows] == EXTENSIONS


def test_every_datatype_is_listed() -> None:
    """Each datatype is listed with its size in bytes and its typed field."""
    for row, datatype in zip(
        tables("protocol.md")["datatype|in JSON"], Datatype, strict=True
    ):
        dtype = numpy_dtype(datatype)
        size = str(dtype.itemsize) if dtype.kind != "O" else "4 of length, then its own"
        field = grpc_codec.CONTENTS.get(datatype.value)
        assert [plain(row[0]), *row[2:]] == [
            datatype.value,
            size,
            f"`{field}`" if field else "none: raw only",
        ]


def test_every_limit_has_the_default_shown() -> None:
    """A limit's default is that of its option, in the host or in KServe."""
    defaults: dict[str, Any] = {
        name: action.default
        for action in kserve.model_server.parser._actions
        for name in action.option_strings
    }
    for model in (Settings, ModelOptions):
        defaults |= {name: field.default for name, field in model.model_fields.items()}
    rows = tables("protocol.md")["limit|set by"]
    assert len(rows) == 9
    for _, option, default, _ in rows:
        assert default == str(defaults[plain(option)]), option
    text = page("protocol.md")
    assert f"of {compression.MINIMUM} bytes or more" in text
    assert all(f"`{name}`" in text for name in compression._WINDOWS)


def test_protocol_page_lists_every_error() -> None:
    """The protocol page lists each error class with its HTTP and gRPC status."""
    rows = tables("protocol.md")["error|HTTP"]
    assert [row[:3] for row in rows] == [
        [f"`{kind.__name__}`", str(kind.http_status), f"`{kind.grpc_status}`"]
        for kind in errors_in_order()
    ]


def errors_in_order(base: type[Exception] = errors.OIPError) -> Iterator[Any]:
    yield base
    for below in base.__subclasses__():
        if below.__module__ == "oip_handler.errors":
            yield from errors_in_order(below)


def test_errors_page_lists_every_error() -> None:
    """Each class is listed with its parent, statuses, public export and meaning."""
    assert tables("errors.md")["class|below"] == [
        [
            f"`{kind.__name__}`",
            "" if kind is errors.OIPError else f"`{kind.__base__.__name__}`",
            str(kind.http_status),
            f"`{kind.grpc_status}`",
            "yes" if kind.__name__ in oip_host.__all__ else "no",
            inspect.getdoc(kind),
        ]
        for kind in errors_in_order()
    ]
    assert "`ConfigurationError`" in page("errors.md")


@cases("errors.md", "raised in a handler|the client gets")
def test_handler_exception_gives_the_error_shown(cell: str, shown: str) -> None:
    """The client gets the status on the page, and the exception's text where shown."""
    known = {**vars(builtins), **vars(kserve.errors), **vars(errors)}
    for name in quoted(cell) or ["RuntimeError"]:
        raised = from_kserve(known[name.split(".")[-1]]("the text"))
        told = boundary.translate(raised, "<name>")
        if "own statuses" not in shown:
            assert shown.startswith(f"{told.http_status}, `{told.grpc_status}`")
        assert "the text" in str(told) or str(told) == quoted(shown)[-1]
        assert ("the text" in str(told)) == (" text" in shown)


def test_grpc_statuses_of_errors_exist() -> None:
    """The gRPC statuses of the error classes are names in `grpc.StatusCode`."""
    for kind in errors_in_order():
        assert hasattr(grpc.StatusCode, kind.grpc_status)

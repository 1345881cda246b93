"""The official OpenAPI document, checked against a live host by schemathesis.

`open_inference_rest.yaml` is the document as published. One thing is corrected when it
is read: its paths say `${MODEL_NAME}`, which OpenAPI reads as a dollar sign before a
parameter.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from support.process import Server
from support.wire import ONE

DOCUMENT = Path(__file__).with_name("open_inference_rest.yaml")
SCHEMA = schemathesis.openapi.from_file(
    io.StringIO(DOCUMENT.read_text().replace("${", "{"))
)
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())  # type: ignore[union-attr]
}
INFER = "POST /v2/models/{MODEL_NAME}/versions/{MODEL_VERSION}/infer"
Case = schemathesis.Case[Any]
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
]
FEW = settings(
    max_examples=100,
    suppress_health_check=list(HealthCheck),  # the document's schemas are slow to draw
)


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    models = ("echo=fakes:Echo", "lists=fakes:Lists", "many@1=fakes:Tells")
    with Server(f"--handlers={','.join(models)}") as server:
        yield server.wait_until_ready()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as connected:
        yield connected


def held(host: Server, session: requests.Session, case: Case) -> schemathesis.Response:
    """Return the answer to a case, after checking it against the document."""
    answer = case.call(base_url=host.url, session=session)
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code != 200:
        document = answer.json()
        assert ["error"] == list(document)
        assert str is type(document["error"])
        assert 400 <= answer.status_code < 500
    return answer


def addressed(case: Case, model: str = "echo") -> Case:
    """Return the case, addressed to a model that exists."""
    if case.path_parameters:
        case.path_parameters = {"MODEL_NAME": model, "MODEL_VERSION": "1"}
    return case


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in OPERATIONS),
        (INFER, GenerationMode.NEGATIVE),  # only it has a body that may be wrong
    ],
)
def test_any_request_has_a_documented_answer(
    host: Server, session: requests.Session, label: str, mode: GenerationMode
) -> None:
    """No request causes a 5xx or an answer that breaks its schema."""

    @FEW
    @given(
        OPERATIONS[label].as_strategy(generation_mode=mode),
        st.sampled_from(["echo", "lists", "many", "nobody", None]),
    )
    def ask(case: Case, model: str | None) -> None:
        held(host, session, addressed(case, model) if model else case)

    ask()


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "INT8": st.integers(-128, 127),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "FP16": st.floats(-60_000, 60_000, width=16),
    "FP32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "FP64": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    "BYTES": st.text(max_size=5),
}
PARAMETERS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5).map(lambda name: f"p{name}"),
    st.booleans() | st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1),
    max_size=3,
)


@st.composite
def right_requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request that the echo answers."""
    inputs = []
    for name in draw(
        st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True)
    ):
        datatype = draw(st.sampled_from(list(VALUES)))
        data = draw(st.lists(VALUES[datatype], max_size=5))
        entry = {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}
        inputs.append({**entry, "parameters": draw(PARAMETERS)})
    optional = {
        "id": st.text(max_size=5),
        "parameters": PARAMETERS,
        "outputs": st.permutations([{"name": entry["name"]} for entry in inputs]),
    }
    return {"inputs": inputs, **draw(st.fixed_dictionaries({}, optional=optional))}


def test_right_requests_have_documented_answers(
    host: Server, session: requests.Session
) -> None:
    """A right request is a 200 whose body has the schema of an answer."""
    operation = OPERATIONS[INFER]

    @FEW
    @given(right_requests())
    def ask(body: dict[str, Any]) -> None:
        case = operation.Case(
            path_parameters={"MODEL_NAME": "echo", "MODEL_VERSION": "1"},
            body=body,
            media_type="application/json",
        )
        assert 200 == held(host, session, case).status_code

    ask()


@pytest.mark.parametrize("label", OPERATIONS)
def test_each_operation_is_served(
    host: Server, session: requests.Session, label: str
) -> None:
    """Every operation of the document has an answer with status 200."""
    body = {"body": ONE, "media_type": "application/json"} if "infer" in label else {}
    place = {"MODEL_NAME": "many", "MODEL_VERSION": "1"} if "{" in label else {}
    case = OPERATIONS[label].Case(path_parameters=place, **body)
    assert 200 == held(host, session, case).status_code


def test_the_document_is_complete() -> None:
    """All of its operations were read."""
    assert 6 == len(OPERATIONS)
    assert INFER in OPERATIONS

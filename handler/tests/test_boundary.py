"""The rules for a handler's answer, whichever protocol sends it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from oip_handler.boundary import check_response
from oip_handler.errors import HandlerFault
from oip_handler.messages import InferenceRequest

ASKED = InferenceRequest(inputs=[], outputs=[])


def answer(**changes: Any) -> SimpleNamespace:
    """Return an answer of foreign classes, with one FP32 output."""
    fields = {"name": "y", "shape": [1], "datatype": "FP32", "parameters": None}
    tensor = SimpleNamespace(**{**fields, "data": [1.0], **changes})
    return SimpleNamespace(outputs=[tensor], parameters=None, id=None)


def test_answer_of_any_classes_is_accepted() -> None:
    """Attributes count, not classes; the model's name and version are the host's."""
    checked = check_response(ASKED, answer(), "m", "2")
    assert ("m", "2", [1.0]) == (
        checked.model_name,
        checked.model_version,
        checked.outputs[0].data.root,
    )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (answer(shape=[2]), "output 'y': shape [2] needs 2 elements, found 1"),
        (answer(datatype="FP31"), "datatype: Input should be"),
        (answer(shape="wide"), "shape: Input should be a valid list"),
        (answer(parameters={"a": [1]}), "parameter 'a' is a list, expected a string"),
        (
            answer(datatype="BYTES", data=["\ud800"]),
            "output 'y': 'utf-8' codec can't encode",
        ),
        (answer(datatype="BYTES", data=[1]), "output 'y': element 0 is the int 1"),
        (SimpleNamespace(), "has no attribute 'outputs'"),
        (None, "has no attribute 'outputs'"),
    ],
    ids=[
        "shape", "datatype", "no shape", "list parameter", "surrogate", "no bytes",
        "no outputs", "nothing",
    ],
)  # fmt: skip
def test_wrong_answer_is_a_handler_fault(wrong: Any, text: str) -> None:
    """The fault is one line, and the same on every carrier."""
    with pytest.raises(HandlerFault) as caught:
        check_response(ASKED, wrong, "m", "1")
    told = str(caught.value)
    assert told.startswith("model 'm' returned an invalid response: ")
    assert text in told
    assert "\n" not in told

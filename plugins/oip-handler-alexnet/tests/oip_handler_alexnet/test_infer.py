"""Requests to a loaded handler: inputs and outputs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("oip_handler_alexnet", reason="the plugin is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from oip_handler import Datatype, InferenceRequest, InvalidRequest, ResponseOutput
from oip_handler_alexnet import AlexNetHandler
from oip_handler_alexnet.labels import read

Ask = Callable[..., dict[str, ResponseOutput]]
Picture = Callable[..., bytes]


def test_metadata_are_images_in_and_labels_out(handler: AlexNetHandler) -> None:
    """BYTES [-1] in; out, five labels and five probabilities for each image."""
    metadata = handler.model_metadata("m")
    inputs, outputs = (
        [(tensor.name, tensor.datatype.value, tensor.shape) for tensor in tensors]
        for tensors in (metadata.inputs, metadata.outputs)
    )
    assert [("image", "BYTES", [-1])] == inputs
    expected = [("labels", "BYTES", [-1, 5]), ("probabilities", "FP32", [-1, 5])]
    assert expected == outputs
    assert handler.model_ready("m").ready


@pytest.mark.parametrize("count", [1, 3])
def test_each_image_gets_five_labels(
    handler: AlexNetHandler, ask: Ask, picture: Picture, count: int
) -> None:
    """Labels are ImageNet's, with descending probabilities, not scores."""
    answer = ask(handler, [picture(n) for n in range(count)])
    labels, probabilities = answer["labels"], answer["probabilities"].as_numpy()
    assert ([count, 5], Datatype.BYTES) == (labels.shape, labels.datatype)
    assert [count, 5] == answer["probabilities"].shape
    assert Datatype.FP32 == answer["probabilities"].datatype
    assert {label.decode() for label in labels.as_numpy().ravel()} <= set(read(None))
    assert (np.diff(probabilities) <= 0).all()
    assert (probabilities >= 0).all()
    assert (probabilities.sum(axis=1) <= 1 + 1e-6).all()


def test_probabilities_of_all_classes_add_up_to_1(ask: Ask, picture: Picture) -> None:
    """They are softmax over every class."""
    settings = AlexNetHandler.Settings(random_weights=0, top=1000)
    every = AlexNetHandler(settings)
    assert every.model_load("m")
    answer = ask(every, [picture()])
    assert 1 == pytest.approx(answer["probabilities"].as_numpy().sum(), abs=1e-5)
    assert 1000 == len(set(answer["labels"].as_numpy()[0]))


def test_answer_does_not_depend_on_the_batch(
    handler: AlexNetHandler, ask: Ask, picture: Picture
) -> None:
    """An image has the same answer alone and in a batch; different images differ."""
    files = [picture(n) for n in range(4)]
    together = ask(handler, files)
    alone = [ask(handler, [file]) for file in files]
    for row, one in enumerate(alone):
        np.testing.assert_allclose(
            one["probabilities"].as_numpy()[0],
            together["probabilities"].as_numpy()[row],
            rtol=1e-3,
        )
        assert (
            one["labels"].as_numpy()[0].tolist()
            == together["labels"].as_numpy()[row].tolist()
        )
    assert 4 == len({tuple(one["probabilities"].as_numpy()[0]) for one in alone})


def test_column_of_images_is_a_list_of_images(
    handler: AlexNetHandler, ask: Ask, picture: Picture
) -> None:
    """[n, 1] is answered like [n]; clients commonly send either."""
    files = [picture(n) for n in range(2)]
    assert ask(handler, files) == ask(handler, files, [2, 1])


def test_no_images_give_an_empty_answer(handler: AlexNetHandler, ask: Ask) -> None:
    """The answer has no rows and is not an error."""
    answer = ask(handler, [])
    assert [0, 5] == answer["labels"].shape == answer["probabilities"].shape


def test_text_is_base64_of_an_image(
    handler: AlexNetHandler, ask: Ask, picture: Picture
) -> None:
    """JSON has no bytes, so its text is base64; bytes are never decoded."""
    file = picture()
    text = base64.b64encode(file).decode()
    lines = base64.encodebytes(file).decode()
    assert ask(handler, [file] * 3) == ask(handler, [text, lines, file])
    with pytest.raises(InvalidRequest, match=r"image 0: .* bytes that are none of"):
        ask(handler, [text.encode()])


@pytest.mark.parametrize(
    ("element", "said"),
    [
        pytest.param(b"", "no bytes", id="empty"),
        pytest.param(b"rubbish", "7 bytes that are none of", id="rubbish"),
        pytest.param("", "no bytes", id="empty text"),
        pytest.param("?", "text that is no base64", id="no base64"),
        pytest.param("ü", "text that is no base64", id="no ASCII"),
        pytest.param("aGVsbG8=", "5 bytes that are none of", id="base64 of text"),
    ],
)
def test_bad_image_fails_its_request_and_is_named(
    handler: AlexNetHandler, ask: Ask, picture: Picture, element: Any, said: str
) -> None:
    """The error has the number of the row."""
    with pytest.raises(InvalidRequest, match=rf"^image 2: {said}"):
        ask(handler, [picture(), picture(1), element, b"another"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(
            {"name": "x"}, "inputs: found 'x', expected 'image'", id="another name"
        ),
        pytest.param(
            {"shape": [1, 2]}, r"BYTES of the shape \[1, 2\], expected", id="two a row"
        ),
        pytest.param(
            {"shape": [2, 1, 1]}, r"of the shape \[2, 1, 1\], expected", id="cube"
        ),
        pytest.param(
            {"datatype": Datatype.UINT8, "elements": [1, 2]}, "is UINT8", id="pixels"
        ),
    ],
)
def test_input_that_is_no_list_of_images_is_refused(
    handler: AlexNetHandler, ask: Ask, changed: dict[str, Any], said: str
) -> None:
    """The error says what was found and what is expected."""
    with pytest.raises(InvalidRequest, match=said):
        ask(handler, **{"elements": [b"a", b"b"], **changed})


def test_request_without_inputs_is_refused(handler: AlexNetHandler) -> None:
    """The handler refuses it even if no host has checked it."""
    with pytest.raises(InvalidRequest, match="inputs: found none, expected 'image'"):
        handler.infer(InferenceRequest(inputs=[]), "m")


def test_limits_are_those_of_the_settings(ask: Ask, picture: Picture) -> None:
    """Too many images are refused before one is read, a large one before its pixels."""
    settings = AlexNetHandler.Settings(
        random_weights=0, top=1, max_images=2, max_pixels=99_899
    )
    limited = AlexNetHandler(settings)
    assert limited.model_load("m")
    with pytest.raises(InvalidRequest, match="has 3 images, expected up to 2"):
        ask(limited, [b"", b"", b""])
    with pytest.raises(InvalidRequest, match="image 0: it has 300 x 333 pixels"):
        ask(limited, [picture()])
    assert [2, 1] == ask(limited, [picture(0, 256, 256)] * 2)["labels"].shape


def test_unloaded_model_can_be_loaded_again(ask: Ask, picture: Picture) -> None:
    """After unloading it is not ready; after another load it answers the same."""
    handler = AlexNetHandler(AlexNetHandler.Settings(random_weights=1))
    assert handler.model_load("m")
    before = ask(handler, [picture()])
    handler.model_unload("m")
    assert not handler.model_ready("m").ready
    assert handler.model_load("m")
    assert before == ask(handler, [picture()])

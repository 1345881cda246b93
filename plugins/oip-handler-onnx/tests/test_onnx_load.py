"""Finding, loading and unloading: settings, providers, metadata, sessions."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
import pytest
from onnx import parser
from pydantic import ValidationError

from oip_handler import (
    Datatype,
    InferenceRequest,
    MetadataTensor,
    ModelMetadataResponse,
    ModelNotReady,
)
from oip_handler_onnx import OnnxHandler

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'
NEGATE = "g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) }"


def saved(tmp_path: Path, graph: str = NEGATE) -> Path:
    """Return the file of this graph, given in ONNX's own text format."""
    path = tmp_path / "model.onnx"
    path.write_bytes(parser.parse_model(HEADER + graph).SerializeToString())
    return path


def handler_of(path: Path, **settings: Any) -> OnnxHandler:
    """Return an unloaded handler, with settings as the host passes them."""
    return OnnxHandler(
        settings=OnnxHandler.Settings.model_validate({"path": path, **settings})
    )


def test_package_import_does_not_import_onnxruntime() -> None:
    """A selected handler is imported, but only a loaded one costs memory."""
    code = "import sys, oip_handler_onnx; print('onnxruntime' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_host_finds_the_handler_as_onnx() -> None:
    """The installed package offers the handler under its entry-point name."""
    (entry,) = entry_points(group="oip.handlers", name="onnx")
    assert entry.load() is OnnxHandler


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        pytest.param({}, "path", id="no path"),
        pytest.param({"path": "m.onnx", "provider": []}, "provider", id="unknown"),
        pytest.param({"path": "m.onnx", "providers": []}, "providers", id="empty"),
        pytest.param(
            {"path": "m.onnx", "intra_op_num_threads": -1},
            "intra_op_num_threads",
            id="negative",
        ),
        pytest.param(
            {"path": "m.onnx", "inter_op_num_threads": 0},
            "inter_op_num_threads",
            id="zero",
        ),
        pytest.param(
            {"path": "m.onnx", "graph_optimization_level": "ALL"},
            "graph_optimization_level",
            id="level",
        ),
    ],
)
def test_wrong_settings_are_found_before_loading(
    settings: dict[str, Any], wrong: str
) -> None:
    """The host can name the wrong setting."""
    with pytest.raises(ValidationError) as refusal:
        OnnxHandler.Settings.model_validate(settings)
    assert [error["loc"] for error in refusal.value.errors()] == [(wrong,)]


def test_metadata_are_those_of_the_file(tmp_path: Path) -> None:
    """Names, datatypes and shapes are the model's; a free dimension is -1."""
    graph = (
        "g (float16[N, 2, M] x, string[3] s) => (bool[N, 2, M] b, int64 n)"
        "{ b = Cast<to=9>(x) n = Size(s) }"
    )
    described = ModelMetadataResponse(
        name="m",
        platform="onnxruntime_onnx",
        inputs=[
            MetadataTensor(name="x", datatype=Datatype.FP16, shape=[-1, 2, -1]),
            MetadataTensor(name="s", datatype=Datatype.BYTES, shape=[3]),
        ],
        outputs=[
            MetadataTensor(name="b", datatype=Datatype.BOOL, shape=[-1, 2, -1]),
            MetadataTensor(name="n", datatype=Datatype.INT64, shape=[]),
        ],
    )
    handler = handler_of(saved(tmp_path, graph))
    assert handler.model_load("m")
    assert handler.model_metadata("m") == described


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The reason for the failed load has the path in it."""
    with pytest.raises(Exception, match=r"absent\.onnx"):
        handler_of(tmp_path / "absent.onnx").model_load("m")


def test_directory_stands_for_its_one_file(tmp_path: Path) -> None:
    """The one ONNX file of a directory is loaded; none or several fail the load."""
    with pytest.raises(FileNotFoundError, match=r"ends in \.onnx or \.ort"):
        handler_of(tmp_path).model_load("m")
    path = saved(tmp_path)
    (tmp_path / "labels.txt").write_text("not a model")
    assert handler_of(tmp_path).model_load("m")
    (tmp_path / "other.onnx").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="found 2 files"):
        handler_of(tmp_path).model_load("m")


def test_missing_provider_fails_the_load(tmp_path: Path) -> None:
    """The reason names the provider and the available ones."""
    handler = handler_of(saved(tmp_path), providers=["NoSuchProvider"])
    with pytest.raises(
        ValueError, match=r"found NoSuchProvider, expected .*CPUExecutionProvider"
    ):
        handler.model_load("m")
    assert not handler.model_ready("m").ready


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_provider_that_does_not_start_fails_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model for a device is not served by the CPU instead."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    handler = handler_of(saved(tmp_path), providers=["CUDAExecutionProvider"])
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider did not start"):
        handler.model_load("m")


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        pytest.param(
            "g (bfloat16[N] x) => (float[N] y) { y = Cast<to=1>(x) }",
            r"inputs: found 'x' as tensor\(bfloat16\), expected types among",
            id="bfloat16 input",
        ),
        pytest.param(
            "g (seq(float[N]) x) => (float[M] y) { y = ConcatFromSequence<axis=0>(x) }",
            r"inputs: found 'x' as seq\(tensor\(float\)\), expected types among",
            id="sequence input",
        ),
        pytest.param(
            "g (seq(map(int64, float)) x, float[N] a) => (float[N] y) { y = Neg(a) }",
            r"inputs: found 'x' as seq\(map\(int64,tensor\(float\)\)\), expected types",
            id="maps as input",
        ),
        pytest.param(
            "g (float[N] x) => (bfloat16[N] y) { y = Cast<to=16>(x) }",
            r"outputs: found 'y' as tensor\(bfloat16\), expected at least one type",
            id="bfloat16 output",
        ),
    ],
)
def test_model_with_unusable_types_does_not_load(
    tmp_path: Path, graph: str, said: str
) -> None:
    """It fails at load with the reason, not at the first request."""
    handler = handler_of(saved(tmp_path, graph))
    with pytest.raises(ValueError, match=said):
        handler.model_load("m")


@pytest.mark.parametrize(
    ("inter_op", "mode"), [(1, "ORT_SEQUENTIAL"), (3, "ORT_PARALLEL")]
)
def test_settings_reach_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inter_op: int, mode: str
) -> None:
    """The session has the operator's numbers, and runs in parallel if they say so."""
    made = []

    class Recorded(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self.get_session_options())

    monkeypatch.setattr(ort, "InferenceSession", Recorded)
    handler = handler_of(
        saved(tmp_path),
        intra_op_num_threads=2,
        inter_op_num_threads=inter_op,
        graph_optimization_level="ENABLE_BASIC",
    )
    assert handler.model_load("m")
    (options,) = made
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == inter_op
    assert options.execution_mode.name == mode
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"


def test_unloading_releases_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After unloading nothing holds the model, and it can be loaded again."""
    opened = []

    class Watched(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(weakref.ref(self))

    monkeypatch.setattr(ort, "InferenceSession", Watched)
    handler = handler_of(saved(tmp_path))
    assert handler.model_load("m")
    assert handler.model_ready("m").ready
    handler.model_unload("m")
    gc.collect()
    assert [reference() for reference in opened] == [None]
    assert not handler.model_ready("m").ready
    assert handler.model_load("m")
    assert handler.model_ready("m").ready


def test_unloaded_model_says_so() -> None:
    """Requests and metadata raise ModelNotReady."""
    handler = handler_of(Path("m.onnx"))
    with pytest.raises(ModelNotReady, match="'m' is not loaded"):
        handler.model_metadata("m")
    with pytest.raises(ModelNotReady, match="'m' is not loaded"):
        handler.infer(InferenceRequest(inputs=[]), "m")

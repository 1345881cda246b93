"""The program of KServe's document on Ray Serve runs, and gives the top five."""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("oip_host", reason="the host is not installed")
pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ray", reason="Ray is not installed")

import torch
from PIL import Image

from oip_handler_alexnet.images import prepare
from oip_handler_alexnet.network import AlexNet
from support.process import Server, wait_for

SEED = Path(__file__).parents[5] / "shared" / "seeds"
SOURCE = Path(__file__).parents[2] / "src"

TORCHVISION = {
    "__init__": "",
    "models": """
        import torch
        from oip_handler_alexnet.network import AlexNet

        def alexnet(pretrained):
            torch.manual_seed(1)
            return AlexNet(1000)
    """,
    "transforms": """
        import numpy as np
        import torch

        class Compose:
            def __init__(self, steps):
                self.steps = steps
            def __call__(self, image):
                for step in self.steps:
                    image = step(image)
                return image

        class Resize:
            def __init__(self, size):
                self.size = size
            def __call__(self, image):
                short, long = sorted(image.size)
                other = int(self.size * long / short)
                wide = image.width > image.height
                size = (other, self.size) if wide else (self.size, other)
                return image.resize(size, 2)

        class CenterCrop:
            def __init__(self, size):
                self.size = size
            def __call__(self, image):
                left = round((image.width - self.size) / 2)
                top = round((image.height - self.size) / 2)
                return image.crop((left, top, left + self.size, top + self.size))

        class ToTensor:
            def __call__(self, image):
                array = np.asarray(image, np.float32) / 255
                return torch.from_numpy(array.transpose(2, 0, 1).copy())

        class Normalize:
            def __init__(self, mean, std):
                self.mean = torch.tensor(mean).reshape(3, 1, 1)
                self.std = torch.tensor(std).reshape(3, 1, 1)
            def __call__(self, tensor):
                return (tensor - self.mean) / self.std
    """,
}
"""What the program uses of torchvision, which fails beside PyTorch's build for CPUs."""


def programs() -> list[str]:
    """Return the document's two programs, with another import of `ModelServer`."""
    found = sorted(SEED.glob("004_*.txt"))
    if not found:
        pytest.skip("the documents that the project started from are not at hand")
    blocks = re.findall(r"^```python\n(.*?)^```", found[0].read_text(), re.M | re.S)
    assert len(blocks) == 2
    ours = "from kserve import Model\nfrom oip_host import ModelServer"
    return [
        block.replace("from kserve import Model, ModelServer", ours) for block in blocks
    ]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with which the program finds all its imports."""
    package = tmp_path / "torchvision"
    package.mkdir()
    for name, text in TORCHVISION.items():
        lines = [line[8:] for line in text.split("\n")]
        (package / f"{name}.py").write_text("\n".join(lines))
    return {"PYTHONPATH": f"{tmp_path}:{SOURCE}"}


def picture() -> bytes:
    """Return a client's image file."""
    pixels = np.random.default_rng(5).integers(0, 256, (300, 400, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def top_five(data: bytes) -> list[float]:
    """Return the five largest outputs of the network, called directly."""
    torch.manual_seed(1)
    network = AlexNet(1000).eval()
    with torch.inference_mode():
        outputs = network(torch.from_numpy(prepare(data, 10**8)[None]))
    return sorted(outputs.flatten().tolist(), reverse=True)[:5]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [0, 1], ids=["in the process", "in Ray Serve"])
def test_program_of_the_document_gives_the_top_five(
    tmp_path: Path, environment: dict[str, str], number: int
) -> None:
    """It answers a V1 request with an image in base64, as in the document."""
    path = tmp_path / "program.py"
    path.write_text(programs()[number])
    data = picture()
    image = {"image": {"b64": base64.b64encode(data).decode()}}
    ready = "/v2/health/ready"
    with Server(program=(sys.executable, str(path)), env=environment) as server:
        wait_for(lambda: server.get(ready).status_code == 200, "readiness", 240)
        path_of_v1 = "/v1/models/custom-model:predict"
        answer = server.post(path_of_v1, json={"instances": [image]})
        assert 200 == answer.status_code, answer.text
        predictions = answer.json()["predictions"]
        np.testing.assert_allclose(predictions, top_five(data), rtol=1e-4, atol=1e-5)
        assert 0 == server.stop()

"""A handler of the Open Inference Protocol that serves ONNX files with onnxruntime.

Importing this package does not import onnxruntime; loading a model does.
"""

from oip_handler_onnx.handler import OnnxHandler

__all__ = ["OnnxHandler"]

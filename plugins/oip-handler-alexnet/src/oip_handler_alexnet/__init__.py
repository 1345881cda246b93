"""AlexNet behind the Open Inference Protocol, as a handler of oip-host.

Importing this package imports neither torch nor Pillow; `model_load` does.
"""

from oip_handler_alexnet.handler import AlexNetHandler

__all__ = ["AlexNetHandler"]

"""scikit-learn estimators behind the Open Inference Protocol, as model handlers.

Importing this package imports neither scikit-learn nor joblib nor skops; `model_load`
does.
"""

from oip_handler_sklearn.handlers import IrisHandler, SklearnHandler

__all__ = ["IrisHandler", "SklearnHandler"]

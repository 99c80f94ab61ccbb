"""Dense prediction on EfficientNet backbones. Importing this loads neither torch nor Lightning; what is used is."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densenet_suite.backbones.base import Backbone, Level
    from densenet_suite.backbones.build import create_backbone
    from densenet_suite.backbones.variants import list_backbones, register_backbone
    from densenet_suite.detection.build import create_detector
    from densenet_suite.detection.data import DetectionData
    from densenet_suite.detection.model import EfficientDet
    from densenet_suite.detection.postprocess import Postprocess
    from densenet_suite.detection.prediction import Prediction
    from densenet_suite.detection.task import DetectionTask
    from densenet_suite.detection.variants import list_detectors
    from densenet_suite.errors import ConfigError, DataError, MissingExtraError, SuiteError
    from densenet_suite.fusing import fuse
    from densenet_suite.optim import Recipe
    from densenet_suite.segmentation.build import create_segmenter
    from densenet_suite.segmentation.data import SegmentationData
    from densenet_suite.segmentation.loss_terms import LossTerm
    from densenet_suite.segmentation.model import Segmenter
    from densenet_suite.segmentation.prediction import Segmentation
    from densenet_suite.segmentation.structures import MaskClasses
    from densenet_suite.segmentation.task import SegmentationTask
    from densenet_suite.segmentation.variants import list_decoders
    from densenet_suite.training.averaging import EvaluationWeights
    from densenet_suite.training.run import Run
    from densenet_suite.verbs.data_check import DataCheck, check_data
    from densenet_suite.verbs.data_convert import Converted, convert_data
    from densenet_suite.verbs.data_show import show_data
    from densenet_suite.verbs.data_split import DataSplit, split_data
    from densenet_suite.verbs.data_stats import DataStats, data_stats
    from densenet_suite.verbs.doctor import doctor
    from densenet_suite.verbs.evaluate import evaluate
    from densenet_suite.verbs.export import export
    from densenet_suite.verbs.load import load
    from densenet_suite.verbs.models import list_models, model_info
    from densenet_suite.verbs.predict import predict, save_results
    from densenet_suite.verbs.quickstart import quickstart
    from densenet_suite.verbs.train import resume, train

__version__ = version("densenet-suite")

_HOME = {
    "Backbone": "backbones.base",
    "ConfigError": "errors",
    "Converted": "verbs.data_convert",
    "DataCheck": "verbs.data_check",
    "DataError": "errors",
    "DataStats": "verbs.data_stats",
    "DataSplit": "verbs.data_split",
    "DetectionData": "detection.data",
    "DetectionTask": "detection.task",
    "EfficientDet": "detection.model",
    "EvaluationWeights": "training.averaging",
    "Level": "backbones.base",
    "LossTerm": "segmentation.loss_terms",
    "MaskClasses": "segmentation.structures",
    "MissingExtraError": "errors",
    "Postprocess": "detection.postprocess",
    "Prediction": "detection.prediction",
    "Recipe": "optim",
    "Run": "training.run",
    "Segmentation": "segmentation.prediction",
    "SegmentationData": "segmentation.data",
    "SegmentationTask": "segmentation.task",
    "Segmenter": "segmentation.model",
    "SuiteError": "errors",
    "check_data": "verbs.data_check",
    "convert_data": "verbs.data_convert",
    "create_backbone": "backbones.build",
    "create_detector": "detection.build",
    "create_segmenter": "segmentation.build",
    "data_stats": "verbs.data_stats",
    "doctor": "verbs.doctor",
    "evaluate": "verbs.evaluate",
    "export": "verbs.export",
    "fuse": "fusing",
    "list_backbones": "backbones.variants",
    "list_decoders": "segmentation.variants",
    "list_detectors": "detection.variants",
    "list_models": "verbs.models",
    "load": "verbs.load",
    "model_info": "verbs.models",
    "predict": "verbs.predict",
    "quickstart": "verbs.quickstart",
    "register_backbone": "backbones.variants",
    "resume": "verbs.train",
    "save_results": "verbs.predict",
    "show_data": "verbs.data_show",
    "split_data": "verbs.data_split",
    "train": "verbs.train",
}

__all__ = [
    "Backbone",
    "ConfigError",
    "Converted",
    "DataCheck",
    "DataError",
    "DataSplit",
    "DataStats",
    "DetectionData",
    "DetectionTask",
    "EfficientDet",
    "EvaluationWeights",
    "Level",
    "LossTerm",
    "MaskClasses",
    "MissingExtraError",
    "Postprocess",
    "Prediction",
    "Recipe",
    "Run",
    "Segmentation",
    "SegmentationData",
    "SegmentationTask",
    "Segmenter",
    "SuiteError",
    "__version__",
    "check_data",
    "convert_data",
    "create_backbone",
    "create_detector",
    "create_segmenter",
    "data_stats",
    "doctor",
    "evaluate",
    "export",
    "fuse",
    "list_backbones",
    "list_decoders",
    "list_detectors",
    "list_models",
    "load",
    "model_info",
    "predict",
    "quickstart",
    "register_backbone",
    "resume",
    "save_results",
    "show_data",
    "split_data",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'densenet_suite' has no attribute {name!r}")
    return getattr(import_module(f"densenet_suite.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""How good detections are: COCO's metrics by our own kernels or by pycocotools, and average precision from scratch."""

from tinymrcnn.evaluation.average_precision import average_precision
from tinymrcnn.evaluation.coco import coco_results
from tinymrcnn.evaluation.comparison import Comparison
from tinymrcnn.evaluation.evaluate import compare, evaluate, evaluate_detections

__all__ = ["Comparison", "average_precision", "coco_results", "compare", "evaluate", "evaluate_detections"]

"""How good detections are: COCO's metrics by pycocotools, and average precision from scratch."""

from tinymrcnn.evaluation.average_precision import average_precision
from tinymrcnn.evaluation.coco import coco_results, evaluate, evaluate_detections

__all__ = ["average_precision", "coco_results", "evaluate", "evaluate_detections"]

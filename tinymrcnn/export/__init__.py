"""A trained model as an ONNX file, which other programs run: ONNX Runtime, OpenVINO, TensorRT and their like.

graph.py      nodes, one after the other, written as calls
layers.py     convolutions with their normalisation, blocks, pyramid, heads: the parts that have weights
detector.py   what lies between them, and the whole: image in, detections out
The command is in commands/export.py. Only these files and the benchmarks know of onnx (the extra `export`).
"""

from tinymrcnn.export.detector import export_model
from tinymrcnn.export.layers import export_body

__all__ = ["export_body", "export_model"]

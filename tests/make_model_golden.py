"""Make model_golden.npz: what torchvision's Mask R-CNN with a few channels gives, stage by stage.

    python tests/make_model_golden.py

needs torch and torchvision, whose versions it records; the tests that read the file need neither.
"""

from pathlib import Path

import numpy as np
from tiny_models import scene
from torchvision_twin import calibrate, run_stages, small_model, twin_of

GOLDEN = Path(__file__).with_name("model_golden.npz")
FEWER = dict(
    num_classes=4, widths=(4, 4, 8, 8), fpn_channels=6, rpn_channels=6, min_size=64, max_size=100,
    rpn_post_nms_test=24, max_detections=6, anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
)  # fmt: skip


def golden_images():
    return [scene(1, (23, 31), ((3, 2, 20, 15),))[0]]


def golden_model():
    return small_model(seed=2, **FEWER)


def main():
    import torch
    import torchvision

    drawn = golden_model().state_dict()
    model = calibrate(golden_model(), golden_images()[0]).eval()
    arrays = run_stages(twin_of(model).eval(), golden_images())
    # most weights are drawn again, those that calibrate() has changed are stored
    state = model.state_dict()
    arrays |= {f"weights/{name}": a for name, a in state.items() if not np.array_equal(a, drawn[name])}
    arrays["versions"] = np.array([f"torch {torch.__version__}", f"torchvision {torchvision.__version__}"])
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KB, {', '.join(arrays['versions'])}")


if __name__ == "__main__":
    main()

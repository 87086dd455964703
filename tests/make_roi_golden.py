"""Make roi_golden.npz: what torchvision's compiled operators give for some awkward RoIs and boxes.

    python tests/make_roi_golden.py

needs torch and torchvision, whose versions it records; the tests that read the file need neither.
"""

import numpy as np
import torch
import torchvision
from roi_reference import AWKWARD_ROIS, GOLDEN, random_rois
from torchvision.ops import batched_nms, nms, ps_roi_pool, roi_align, roi_pool

SCALE, BINS = 0.5, (3, 2)


def with_gradient(operator, features, rois, upstream):
    leaf = torch.from_numpy(features).requires_grad_()
    out = operator(leaf, torch.from_numpy(rois))
    out.backward(torch.from_numpy(upstream))
    return out.detach().numpy(), leaf.grad.numpy()


def sensitive(features, rois):
    return ps_roi_pool(features, rois, BINS, SCALE)


def main():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 3, 7, 10)).astype(np.float32)
    rois = np.concatenate([AWKWARD_ROIS, random_rois(rng, 12, 2, 7, 10, SCALE)]).astype(np.float32)
    upstream = rng.normal(size=(len(rois), 3, *BINS)).astype(np.float32)
    # torchvision takes no reversed RoI with aligned=True and adaptive sampling (std::vector of negative size)
    ordered = (rois[:, 3] >= rois[:, 1]) & (rois[:, 4] >= rois[:, 2])
    arrays = {"features": features, "rois": rois, "upstream": upstream, "ordered": ordered}

    operators = {"roi_pool": lambda x, boxes: roi_pool(x, boxes, BINS, SCALE)}
    for aligned in (False, True):
        for ratio in (-1, 2):
            operators[f"roi_align {aligned} {ratio}"] = lambda x, boxes, r=ratio, a=aligned: roi_align(
                x, boxes, BINS, SCALE, r, a
            )
    for name, operator in operators.items():
        rows = ordered if "True" in name else np.ones(len(rois), bool)
        arrays[name], arrays[name + " gradient"] = with_gradient(operator, features, rois[rows], upstream[rows])

    corners = rng.integers(0, 30, (120, 2))
    candidates = np.concatenate([corners, corners + rng.integers(1, 20, (120, 2))], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0, 1, 120)).astype(np.float32)  # no ties: torchvision promises no order there
    groups = rng.integers(0, 4, 120)
    arrays |= {"boxes": candidates, "scores": scores, "groups": groups}
    given = torch.from_numpy(candidates), torch.from_numpy(scores)
    for threshold in (0.05, 0.1, 0.3, 0.5, 0.7):
        arrays[f"nms {threshold}"] = nms(*given, threshold).numpy()
        arrays[f"batched_nms {threshold}"] = batched_nms(*given, torch.from_numpy(groups), threshold).numpy()

    # Every bin reads channels of its own. torchvision's gradient spreads to the last row and column, which its forward
    # does not read: on a map without them it is that of the forward on the whole map.
    groups_of_maps, half = rng.normal(size=(2, 2 * BINS[0] * BINS[1], 7, 10)).astype(np.float32), upstream[:, :2].copy()
    inner = np.ascontiguousarray(groups_of_maps[..., :-1, :-1])
    arrays["grouped features"] = groups_of_maps
    arrays["ps_roi_pool"], _ = with_gradient(sensitive, groups_of_maps, rois, half)
    _, arrays["ps_roi_pool gradient"] = with_gradient(sensitive, inner, rois, half)

    arrays["versions"] = np.array([f"torch {torch.__version__}", f"torchvision {torchvision.__version__}"])
    np.savez_compressed(GOLDEN, **arrays)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KB, {', '.join(arrays['versions'])}")


if __name__ == "__main__":
    main()

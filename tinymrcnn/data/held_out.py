"""Images that a model is evaluated on and must not have seen: held out of a data set, or compared with it."""

import hashlib
from collections import defaultdict
from pathlib import Path

SHARE = 0.2  # of a data set that has no split for evaluation


class Subset:
    """Some images of a data set, in the order of the indices; see CocoDataset for what the methods return."""

    def __init__(self, dataset, indices: list[int]):
        self.dataset, self.indices, self.categories = dataset, indices, dataset.categories

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return self.dataset[self.indices[index]]

    def read_target(self, index: int) -> dict:
        return self.dataset.read_target(self.indices[index])

    def image_of(self, index: int) -> dict:
        return self.dataset.image_of(self.indices[index])

    def noted(self, index: int) -> str:
        return self.dataset.noted(self.indices[index])

    def objects_of(self, index: int) -> list[dict]:
        return self.dataset.objects_of(self.indices[index])


def hold_out(dataset, share: float = SHARE, seed: int = 0) -> tuple[Subset, Subset]:
    """(the images to train on, those to evaluate on), each in its old order. share: of the images, for the second.

    Which they are follows from the seed and their names alone, in whatever order they come; with more images, few
    change sides. Raises ValueError for a share that is not between 0 and 1, or fewer than two images."""
    if not 0 < share < 1:
        raise ValueError(f"The share of the images to hold out is {share}; it must lie between 0 and 1.")
    if len(dataset) < 2:
        raise ValueError("Of fewer than two images none can be held out; name others with --val.")
    names = [f"{seed}/{dataset.image_of(index)['name']}" for index in range(len(dataset))]
    keys = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in names]
    count = min(max(1, round(share * len(dataset))), len(dataset) - 1)
    held = set(sorted(range(len(dataset)), key=lambda index: (keys[index], index))[:count])
    return (
        Subset(dataset, [index for index in range(len(dataset)) if index not in held]),
        Subset(dataset, sorted(held)),
    )


def shared_images(dataset, held_out) -> list[Path]:
    """The files of the held-out images that the data set has too: the same file, or one with the same content."""
    first, second = (
        [Path(each.image_of(n)["file"]).resolve() for n in range(len(each))] for each in (dataset, held_out)
    )
    by_size = defaultdict(list)
    for file in first:
        by_size[file.stat().st_size].append(file)
    digests: dict[Path, bytes] = {}

    def digest(file: Path) -> bytes:
        if file not in digests:
            with open(file, "rb") as content:
                digests[file] = hashlib.file_digest(content, "sha256").digest()
        return digests[file]

    known = set(first)
    return [
        file for file in second
        if file in known or any(digest(file) == digest(other) for other in by_size.get(file.stat().st_size, ()))
    ]  # fmt: skip

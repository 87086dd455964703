"""`tinymrcnn models`: the presets, what each costs, and where its weights are."""

from tinymrcnn.models import list_presets
from tinymrcnn.models.cost import SIZE, cost_of
from tinymrcnn.models.presets import PUBLIC_FILES, get_config


def print_presets() -> int:
    """Print the table of all presets, and the public files."""
    print(f"{'':<28}{'parameters (millions)':>24}{f'GFLOPs at {SIZE[0]}x{SIZE[1]}':>24}")
    print(f"{'preset':<28}" + 2 * f"{'Mask R-CNN':>12}{'Faster':>12}")
    for name in list_presets():
        config = get_config(name)
        cost = cost_of(config)
        columns = (
            cost.parameters / 1e6, (cost.parameters - cost.mask_parameters) / 1e6,
            cost.operations / 1e9, (cost.operations - cost.mask_operations) / 1e9,
        )  # fmt: skip
        texts = [f"{value:.2f}" for value in columns[:2]] + [f"{value:.1f}" for value in columns[2:]]
        if config.model != "mask_rcnn":  # there is no such model without masks
            texts[1] = texts[3] = "-"
        print(f"{name:<28}" + "".join(f"{text:>12}" for text in texts))
    print("\nFaster R-CNN is the preset with masks=False. FCIS and MNC have no such half:")
    print("FCIS reads all from the same maps, and the classes of MNC depend on its masks.")
    print("The operations are those of one image with as many proposals and detections as the preset allows,")
    print("2 for a multiplication and an addition.\n\nPublic weights:")
    for name in list_presets():
        if name in PUBLIC_FILES:
            mask, faster = PUBLIC_FILES[name]
            print(f"  {name}\n    Mask R-CNN    {mask}\n    Faster R-CNN  {faster}")
    print("  shapes: comes with the package. The others have none.")
    return 0

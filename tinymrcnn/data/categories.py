"""Which class of a data set is which class of a model: compared by name, since every data set has its own numbers."""

from tinymrcnn.files import printable


def map_categories(known: list[dict] | None, categories: list[dict]) -> dict[int, int]:
    """{label in the data set: label in the model}, of classes with the same name.

    known: the model's categories, None or [] for a model that does not name them: its labels are taken as they are.
    categories: the data set's, each of which must be one of the model's; their order and their ids can differ.
    Raises ValueError, with both lists of names, where the model does not know a class, or where a name that stands
    for two classes could mean either."""
    labels = [category["label"] for category in categories]
    if not known:
        return dict(zip(labels, labels, strict=True))
    model_names, names = ([category["name"] for category in each] for each in (known, categories))
    if model_names == names:
        return dict(zip(labels, (category["label"] for category in known), strict=True))
    by_name = {category["name"]: category["label"] for category in known}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        problem = f"the model does not know {listed(unknown)}"
    elif len(set(names)) < len(names) or len(by_name) < len(known):
        problem = "two of them have the same name, so their order must be the same"
    else:
        return {category["label"]: by_name[category["name"]] for category in categories}
    raise ValueError(
        f"The model knows the categories {listed(model_names)}, the data set has {listed(names)}: {problem}. "
        "Name them alike in both, or train a model on these."
    )


def listed(names, most: int = 20) -> str:
    """Names as a list to be printed, the first `most` of them."""
    shown = ", ".join(f"'{printable(name)}'" for name in names[:most])
    return f"[{shown}]" if len(names) <= most else f"[{shown}, and {len(names) - most} more]"

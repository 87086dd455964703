"""The same objects, written as each tool writes them. Independent of the readers: nothing of tinymrcnn is used here.

An object is a class with rectangles, its parts, and rectangles that are cut out of them, its holes: so its mask is
known to the pixel, and its polygons too.
"""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image


class Thing(NamedTuple):
    name: str
    parts: tuple  # of (x1, y1, x2, y2)
    holes: tuple = ()

    def mask(self, size) -> np.ndarray:
        mask = np.zeros(size, bool)
        for value, rectangles in ((True, self.parts), (False, self.holes)):
            for x1, y1, x2, y2 in rectangles:
                mask[y1:y2, x1:x2] = value
        return mask

    def polygons(self) -> list[list[float]]:
        return [[x1, y1, x2, y1, x2, y2, x1, y2] for x1, y1, x2, y2 in self.parts]


class Scene(NamedTuple):
    name: str
    size: tuple[int, int]
    things: tuple[Thing, ...]

    def pixels(self) -> np.ndarray:
        rng = np.random.default_rng(len(self.name) + self.size[1])
        pixels = rng.integers(0, 90, (*self.size, 3), np.uint8)
        for number, thing in enumerate(self.things):
            pixels[thing.mask(self.size)] = (120 + 30 * number % 120, 255 - 40 * number % 120, 200)
        return pixels


PLAIN = Thing("car", ((3, 4, 13, 20),))
TOUCHING = Thing("car", ((13, 4, 22, 18),))  # beside PLAIN
HOLED = Thing("person", ((25, 3, 44, 19),), ((28, 8, 36, 14),))
PARTED = Thing("bus", ((4, 24, 12, 33), (20, 22, 34, 36)))
# holes and parts that touch another object; an image of another size; one without objects
SCENES = (
    Scene("a", (40, 50), (PLAIN, TOUCHING, HOLED, PARTED)),
    Scene("b 2", (36, 64), (Thing("person", ((40, 5, 60, 30),)), Thing("car", ((1, 1, 20, 12),)))),
    Scene("c", (40, 50), ()),
)


def scenes(holes=True, parts=True) -> tuple[Scene, ...]:
    """The scenes without the things that a format cannot hold."""
    return tuple(
        scene._replace(things=tuple(
            thing for thing in scene.things if (holes or not thing.holes) and (parts or len(thing.parts) == 1)))
        for scene in SCENES
    )  # fmt: skip


def save(path: Path, pixels, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def runs(flat) -> list[int]:
    """The lengths of 0s and 1s in turn."""
    flat = np.asarray(flat, np.int8).ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


def names_of(scenes_) -> list[str]:
    return sorted({thing.name for scene in scenes_ for thing in scene.things})


# COCO ----------------------------------------------------------------------------------------------------


def coco_content(scenes_, names=None) -> dict:
    names = names or names_of(scenes_)
    annotations = []
    for number, scene in enumerate(scenes_, start=1):
        for thing in scene.things:
            mask = thing.mask(scene.size)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x, y = int(columns[0]), int(rows[0])
            plain = not thing.holes
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 10 * names.index(thing.name) + 7,
                "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y], "area": int(mask.sum()), "iscrowd": 0,
                "segmentation": thing.polygons() if plain else {"size": list(scene.size), "counts": runs(mask.T)},
            })  # fmt: skip
    images = [{"id": number, "file_name": f"{scene.name}.png", "height": scene.size[0], "width": scene.size[1]}
              for number, scene in enumerate(scenes_, start=1)]  # fmt: skip
    categories = [{"id": 10 * number + 7, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def images_into(folder: Path, scenes_, suffix=".png") -> None:
    for scene in scenes_:
        save(folder / f"{scene.name}{suffix}", scene.pixels())


def write_coco(root: Path, scenes_) -> None:
    images_into(root / "images", scenes_)
    write(root / "annotations.json", coco_content(scenes_))


def write_roboflow(root: Path, scenes_) -> None:
    for part, some in (("train", scenes_), ("valid", scenes_[1:2])):
        images_into(root / part, some)
        write(root / part / "_annotations.coco.json", coco_content(some, names_of(scenes_)))
    write(root / "README.roboflow.txt", "exported")


def write_split_coco(root: Path, scenes_) -> None:
    """train/ beside train.json."""
    for part, some in (("train", scenes_), ("val", scenes_[1:2])):
        images_into(root / part, some)
        write(root / f"{part}.json", coco_content(some, names_of(scenes_)))


def write_original_coco(root: Path, scenes_) -> None:
    """As COCO itself is distributed: other tasks lie beside that of instances."""
    for part, some in (("train2017", scenes_), ("val2017", scenes_[1:2])):
        images_into(root / part, some)
        write(root / "annotations" / f"instances_{part}.json", coco_content(some, names_of(scenes_)))
        write(root / "annotations" / f"person_keypoints_{part}.json", coco_content(some[:1], names_of(scenes_)))


# Text ----------------------------------------------------------------------------------------------------


def yolo_lines(scene, names) -> str:
    height, width = scene.size
    lines = []
    for thing in scene.things:
        points = np.array(thing.polygons()[0]).reshape(-1, 2) / (width, height)
        lines.append(" ".join([str(names.index(thing.name)), *(f"{value:.6f}" for value in points.ravel())]))
    return "\n".join(lines) + "\n"


def write_yolo(root: Path, scenes_) -> None:
    """data.yaml with a train and a val list; images without objects have no text file."""
    names = names_of(scenes_)
    for part, some in (("train", scenes_), ("val", scenes_[1:2])):
        images_into(root / "images" / part, some, ".jpg")
        for scene in some:
            if scene.things:
                write(root / "labels" / part / f"{scene.name}.txt", yolo_lines(scene, names))
    listed = "\n".join(f"  {number}: {name}" for number, name in enumerate(names))
    write(root / "data.yaml", f"path: /somebody/elses/folder\ntrain: images/train\nval: images/val\nnames:\n{listed}\n")


def write_labelme(root: Path, scenes_) -> None:
    for scene in scenes_:
        save(root / f"{scene.name}.png", scene.pixels())
        shapes = []
        for group, thing in enumerate(scene.things):
            if thing.holes:
                x1, y1, x2, y2 = thing.parts[0]
                buffer = io.BytesIO()
                Image.fromarray(thing.mask(scene.size)[y1:y2, x1:x2]).save(buffer, "PNG")
                shapes.append({"label": thing.name, "points": [[x1, y1], [x2 - 1, y2 - 1]], "group_id": None,
                               "shape_type": "mask", "mask": base64.b64encode(buffer.getvalue()).decode()})  # fmt: skip
                continue
            group_id = group if len(thing.parts) > 1 else None
            for polygon in thing.polygons():
                points = np.reshape(polygon, (-1, 2)).tolist()
                shapes.append({"label": thing.name, "points": points, "group_id": group_id, "shape_type": "polygon"})
        shapes.append({"label": "car", "points": [[1, 1]], "group_id": None, "shape_type": "point"})
        write(root / f"{scene.name}.json", {
            "version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{scene.name}.png", "imageData": None,
            "imageHeight": scene.size[0], "imageWidth": scene.size[1],
        })  # fmt: skip


def write_via(root: Path, scenes_) -> None:
    images_into(root, scenes_)
    content = {}
    for scene in scenes_:
        regions = [
            {"shape_attributes": {"name": "polygon", "all_points_x": polygon[0::2], "all_points_y": polygon[1::2]},
             "region_attributes": {"quality": {}, "class": thing.name}}
            for thing in scene.things for polygon in thing.polygons()
        ]  # fmt: skip
        content[f"{scene.name}.png123"] = {"filename": f"{scene.name}.png", "size": 123, "regions": regions,
                                           "file_attributes": {}}  # fmt: skip
    write(root / "project.json", {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}})


def write_cvat(root: Path, scenes_) -> None:
    images_into(root / "images", scenes_)
    labels = "".join(f"<label><name>{name}</name></label>" for name in names_of(scenes_))
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>",
             f"<meta><task><labels>{labels}</labels></task></meta>"]  # fmt: skip
    for number, scene in enumerate(scenes_):
        lines.append(f'<image id="{number}" name={quoteattr(scene.name + ".png")} '
                     f'width="{scene.size[1]}" height="{scene.size[0]}">')  # fmt: skip
        for group, thing in enumerate(scene.things, start=1):
            if thing.holes:
                x1, y1, x2, y2 = thing.parts[0]
                rle = ", ".join(map(str, runs(thing.mask(scene.size)[y1:y2, x1:x2])))
                lines.append(f'<mask label="{thing.name}" rle="{rle}" left="{x1}" top="{y1}" width="{x2 - x1}" '
                             f'height="{y2 - y1}" z_order="0"></mask>')  # fmt: skip
                continue
            for polygon in thing.polygons():
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in np.reshape(polygon, (-1, 2)))
                shared = f' group_id="{group}"' if len(thing.parts) > 1 else ""
                lines.append(f'<polygon label="{thing.name}" points="{points}" z_order="0"{shared}></polygon>')
        lines.append("</image>")
    write(root / "annotations.xml", "\n".join([*lines, "</annotations>"]))


def brush(mask) -> list[int]:
    """Label Studio's run lengths: runs of one value where four or more are equal, and else value by value."""
    values = np.repeat(mask.ravel().astype(int) * 255, 4).tolist()
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    start = 0
    while start < len(values):
        end = start
        while end < len(values) and values[end] == values[start] and end - start < 2**16:
            end += 1
        length = end - start - 1
        if length < 4:
            end = min(start + 8, len(values))
            bits += "0" + "00" + f"{end - start - 1:03b}" + "".join(f"{value:08b}" for value in values[start:end])
        else:
            kind, size = next((n, size) for n, size in enumerate((3, 4, 8, 16)) if length < 2**size)
            bits += "1" + f"{kind:02b}" + f"{length:0{size}b}" + f"{values[start]:08b}"
        start = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def write_labelstudio(root: Path, scenes_) -> None:
    tasks = []
    for number, scene in enumerate(scenes_):
        save(root / "upload" / f"{scene.name}.png", scene.pixels())
        height, width = scene.size
        results = []
        for place, thing in enumerate(scene.things):
            common = {"id": f"r{place}", "from_name": "label", "to_name": "image", "original_width": width,
                      "original_height": height}  # fmt: skip
            if thing.holes or len(thing.parts) > 1:
                value = {"format": "rle", "rle": brush(thing.mask(scene.size)), "brushlabels": [thing.name]}
                results.append({**common, "type": "brushlabels", "value": value})
            else:
                points = (np.reshape(thing.polygons()[0], (-1, 2)) / (width, height) * 100).tolist()
                value = {"points": points, "closed": True, "polygonlabels": [thing.name]}
                results.append({**common, "type": "polygonlabels", "value": value})
        address = f"/data/upload/3/0a1b2c3d-{scene.name}.png".replace(" ", "%20")
        annotations = [{"id": 1, "was_cancelled": True, "result": []},
                       {"id": 2, "was_cancelled": False, "result": results}]  # fmt: skip
        tasks.append({"id": number, "data": {"image": address}, "annotations": annotations})
    tasks.append({"id": 99, "data": {"image": "/data/upload/3/ffffffff-later.png"}, "annotations": []})
    write(root / "project-1.json", tasks)


# Masks as images -----------------------------------------------------------------------------------------


def label_image(scene, number_of=lambda number, thing: number + 1) -> np.ndarray:
    ids = np.zeros(scene.size, np.int32)
    for number, thing in enumerate(scene.things):
        ids[thing.mask(scene.size)] = number_of(number, thing)
    return ids


def write_ids(root: Path, scenes_) -> None:
    """As Penn-Fudan: two folders, 8 bits."""
    for scene in scenes_:
        save(root / "PNGImages" / f"{scene.name}.png", scene.pixels())
        save(root / "PedMasks" / f"{scene.name}_mask.png", label_image(scene).astype(np.uint8))


def write_cellpose(root: Path, scenes_) -> None:
    """One folder, 16 bits, TIFF, in train/ and test/."""
    for part, some in (("train", scenes_), ("test", scenes_[1:2])):
        for scene in some:
            save(root / part / f"{scene.name}_img.tif", scene.pixels())
            ids = label_image(scene, lambda number, _: 300 * (number + 1)).astype(np.uint16)
            save(root / part / f"{scene.name}_masks.tif", ids)


def write_instances(root: Path, scenes_) -> None:
    for scene in scenes_:
        save(root / scene.name / "images" / f"{scene.name}.png", scene.pixels())
        (root / scene.name / "masks").mkdir()
        for number, thing in enumerate(scene.things):
            mask = thing.mask(scene.size).astype(np.uint8) * 255
            save(root / scene.name / "masks" / f"{number}f.png", mask)


VOC_CLASSES = {"bus": 6, "car": 7, "person": 15}


def with_palette(values, path: Path) -> None:
    image = Image.fromarray(np.asarray(values, np.uint8)).convert("L")
    image.putpalette([value for number in range(256) for value in (number, 255 - number, number // 2)])  # becomes P
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_voc(root: Path, scenes_) -> None:
    """VOCdevkit/VOC2012, with the border of unknown pixels around an object."""
    root = root / "VOCdevkit" / "VOC2012"
    for scene in scenes_:
        save(root / "JPEGImages" / f"{scene.name}.jpg", scene.pixels())
        objects = label_image(scene)
        classes = label_image(scene, lambda _, thing: VOC_CLASSES[thing.name])
        for values in (objects, classes):
            values[-2:, -2:] = 255
        with_palette(objects, root / "SegmentationObject" / f"{scene.name}.png")
        with_palette(classes, root / "SegmentationClass" / f"{scene.name}.png")


def write_colored_voc(root: Path, scenes_) -> None:
    """CVAT's "Segmentation mask": classes of one's own, in colours."""
    colors = {"bus": (0, 0, 255), "car": (250, 50, 83), "person": (255, 255, 255)}
    rows = "".join(f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in colors.items())
    write(root / "labelmap.txt", f"# label:color_rgb:parts:actions\nbackground:0,0,0::\n{rows}")
    for scene in scenes_:
        save(root / "JPEGImages" / f"{scene.name}.png", scene.pixels())
        objects, classes = np.zeros((2, *scene.size, 3), np.uint8)
        for number, thing in enumerate(scene.things):
            objects[thing.mask(scene.size)] = (0, 0, 255 - number)
            classes[thing.mask(scene.size)] = colors[thing.name]
        save(root / "SegmentationObject" / f"{scene.name}.png", objects)
        save(root / "SegmentationClass" / f"{scene.name}.png", classes)


CITYSCAPES = {"person": 24, "car": 26, "bus": 28}


def write_cityscapes(root: Path, scenes_) -> None:
    """With road (7) under everything, and a row of cars that are not told apart (26) at the upper border."""
    for part, some in (("train", scenes_), ("val", scenes_[1:2])):
        for number, scene in enumerate(some):
            name = f"ulm_{number:06d}_000019"
            ids = label_image(scene, lambda number, thing: CITYSCAPES[thing.name] * 1000 + number)
            ids[ids == 0] = 7
            ids[0, :5] = 26
            save(root / "leftImg8bit" / part / "ulm" / f"{name}_leftImg8bit.png", scene.pixels())
            save(root / "gtFine" / part / "ulm" / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16))
            save(root / "gtFine" / part / "ulm" / f"{name}_gtFine_labelIds.png", (ids // 1000).astype(np.uint8))

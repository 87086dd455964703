"""The options that several commands share."""

import argparse


def add_data(parser: argparse.ArgumentParser, what: str, more: str = "") -> None:
    """--data and --format. what: what the command does with the images; more: words behind."""
    parser.add_argument(
        "--data", nargs="+", metavar=("PATH", "JSON"),
        help=f"{what}: a folder or file of any format that is read here, or a folder of images and a COCO JSON{more}",
    )  # fmt: skip
    add_format(parser)


def add_source(parser: argparse.ArgumentParser) -> None:
    """The data set as an argument of its own, and --format."""
    parser.add_argument(
        "source", nargs="+", metavar="SRC", help="a folder or file, or a folder of images and a COCO JSON"
    )
    add_format(parser)


def add_format(parser: argparse.ArgumentParser) -> None:
    """--format."""
    parser.add_argument("--format", metavar="NAME", help="of the data, where it is not recognised: coco, yolo, ...")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto, a GPU if there is one)"
    )


def add_mine(parser: argparse.ArgumentParser) -> None:
    """--mine."""
    parser.add_argument(
        "--mine",
        metavar="FILE",
        help="with functions of your own, such as lessons/mine.py, in the package's place (CPU)",
    )


def add_test_time(parser: argparse.ArgumentParser) -> None:
    """What can still be decided after training: --set, --tile, --flip and --soft-nms."""
    parser.add_argument(
        "--set", action="append", dest="settings", metavar="FIELD=VALUE", help="a limit, threshold or size of the model"
    )
    parser.add_argument("--tile", type=int, metavar="N", help="cut larger images into squares of N pixels that overlap")
    parser.add_argument(
        "--flip", action="store_true", dest="mirrored", help="look at every image mirrored too, and average"
    )
    parser.add_argument(
        "--soft-nms", action="store_true", dest="soft", help="lower the scores of overlapping boxes; do not drop them"
    )

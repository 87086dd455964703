"""The command line: it parses, and calls the function of tinymrcnn/commands that does the work.

Heavy modules are imported when a command runs, so that --help is quick and BLAS's kernels can be chosen before NumPy is
loaded. Exit codes: 0; 1 where something failed on the way; 2 for bad input; 128 plus its number after a signal: 130 for
Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 141 if a command that only prints has lost its reader.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator

from tinymrcnn import __version__
from tinymrcnn.commands.options import add_data, add_device, add_format, add_mine, add_source, add_test_time
from tinymrcnn.commands.terminal import ReaderGone, only_prints, prepare_drawing, terminal
from tinymrcnn.files import FULL_DISK, SHIPPED_MODEL, told
from tinymrcnn.machine import choose_blas_kernels, keep_freed_memory
from tinymrcnn.stopping import RunStopped


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    choose_blas_kernels()
    keep_freed_memory()
    try:
        with terminal():
            options = vars(_parser().parse_args(argv))
            command, traceback = options.pop("command"), options.pop("traceback")
            try:
                code = command(**options)
                sys.stdout.flush()  # a full disk, or a reader who went away, shows here
                return code
            except KeyboardInterrupt as interrupt:
                print(f"\n{str(interrupt) or 'Interrupted.'}", file=sys.stderr)
                return 128 + getattr(interrupt, "signum", signal.SIGINT)
            except Exception as error:
                if traceback or isinstance(error, ReaderGone):
                    raise
                print(f"tinymrcnn: error: {_sentence(error)}", file=sys.stderr)
                return _code(error)
    except ReaderGone:
        return 141


def _sentence(error: Exception) -> str:
    """An error's text, and its type too unless it is a type that is raised on purpose."""
    if isinstance(error, (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError)):
        return told(error)
    return f"Something unexpected went wrong; --traceback shows where. {type(error).__name__}: {told(error)}"


def _code(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return 1
    return 2 if isinstance(error, (ValueError, OSError, RuntimeError)) and not isinstance(error, RunStopped) else 1


# The commands --------------------------------------------------------------------------------------------


def _train(**options) -> int:
    print("Starting. Where kernels are new, the first step compiles them, once: about 20 s.", flush=True)
    prepare_drawing()
    from tinymrcnn.commands.train import TrainOptions, train_command

    with _mine(options):
        return train_command(TrainOptions(**options))


def _evaluate(checkpoint: str, **options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.evaluate import EvaluateOptions, evaluate_command

    with _mine(options):
        return evaluate_command(checkpoint, EvaluateOptions(**options))


def _predict(images: list[str], **options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.predict import PredictOptions, predict_command

    with _mine(options):
        return predict_command(images, PredictOptions(**options))


@contextlib.contextmanager
def _mine(options: dict) -> Iterator[None]:
    """Take --mine out of the options; while the block runs, its functions stand in the place of the package's."""
    if not (path := options.pop("mine")):
        yield
        return
    if options["device"] == "cuda":
        raise ValueError("--mine replaces functions by some that work on NumPy arrays: leave out --device cuda.")
    options["device"] = "cpu"
    from tinymrcnn.mine import in_place

    with in_place(path) as table:
        print(table, flush=True)
        yield


def _export(**options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.export import export_command

    return export_command(**options)


def _data_shapes(**options) -> int:
    from tinymrcnn.commands.data import write_shapes

    return write_shapes(**options)


def _data_convert(**options) -> int:
    from tinymrcnn.commands.data import convert_data

    return convert_data(**options)


def _data_check(**options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.check import check_data

    return check_data(**options)


def _data_show(**options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.data import show_data

    return show_data(**options)


def _models() -> int:
    only_prints()
    from tinymrcnn.commands.models import print_presets

    return print_presets()


def _bench(**options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.bench import run_bench

    return run_bench(**options)


def _reproduce(**options) -> int:
    prepare_drawing()
    from tinymrcnn.commands.reproduce import reproduce

    return reproduce(**options)


def _gradcheck(**options) -> int:
    from tinymrcnn.commands.gradcheck import check_gradients

    return check_gradients(**options)


def _doctor() -> int:
    only_prints()
    from tinymrcnn.commands.doctor import run_doctor

    return run_doctor()


# The options ---------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinymrcnn", description="Mask R-CNN from scratch: train it, and use it.")
    parser.add_argument("--version", action="version", version=f"tinymrcnn {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(group, name, function, summary, examples=""):
        new = group.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".",
            epilog=examples and f"examples:\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        new.set_defaults(command=function)
        return new

    train = command(
        commands, "train", _train, "train a model, by default on toy shapes",
        "  tinymrcnn train                       the whole thing, on a GPU if there is one\n"
        "  tinymrcnn train --quick               a first picture in about two minutes\n"
        "  tinymrcnn train --resume runs/shapes  go on where a run was interrupted\n"
        "  tinymrcnn train --set roi_op=roi_pool --set lr=5e-4\n"
        "  tinymrcnn train --data my_data        a folder of images with labels of any usual kind\n"
        "  tinymrcnn train --data train/ train.json --val val/ val.json\n"
        "  tinymrcnn train --preset torchvision_resnet50_fpn --weights FILE.pth --freeze-at 2 --steps 500",
    )  # fmt: skip
    train.add_argument("--preset", help="which model (default: that of the weights, or shapes)")
    train.add_argument("--weights", metavar="FILE", help="fine-tune: start from these (lr: 1e-4 unless set)")
    train.add_argument(
        "--backbone", metavar="FILE", help="start from a classifier's ResNet, torchvision's or detectron2's (lr: 1e-4)"
    )
    train.add_argument(
        "--freeze-at", type=int, metavar="N", help="with either: freeze the first N stages: stem, layer1, ..."
    )
    add_data(train, "train on these", " (with --resume: their new place)")
    train.add_argument(
        "--val", nargs="+", metavar=("PATH", "JSON"),
        help="the images to preview and evaluate on, or a share to hold out of the others (default: the split that the "
        "data have, or 0.2)",
    )  # fmt: skip
    add_device(train)
    add_mine(train)
    train.add_argument("--quick", action="store_true", help="fewer steps, evaluated on fewer images")
    train.add_argument("--steps", type=int, metavar="N", help="how many steps to train (with --resume: in all)")
    train.add_argument("--val-every", type=int, metavar="N", help="steps between validations (a tenth of all; 0: none)")
    train.add_argument(
        "--patience", type=int, metavar="N", help="stop after N validations without a better AP (default: never)"
    )
    train.add_argument("--batch-size", type=int, metavar="N", help="how many images a step sees (8; full size: 2)")
    train.add_argument("--seed", type=int, metavar="N", help="of weights, order, flips and samples (default: 0)")
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: the first free of runs/PRESET, ...-2)")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this folder, with its settings")
    train.add_argument(
        "--set", action="append", dest="settings", metavar="FIELD=VALUE", help="any field of Config or TrainConfig"
    )

    evaluate = command(
        commands, "evaluate", _evaluate, "compute COCO's box and mask AP of a checkpoint",
        "  tinymrcnn evaluate runs/shapes/model.npz\n"
        "  tinymrcnn evaluate runs/shapes/model.npz --data my_data\n"
        "  tinymrcnn evaluate model.npz --data val/ val.json --out metrics.json\n"
        "  tinymrcnn evaluate model.npz --data val/ val.json --interval --errors",
    )  # fmt: skip
    evaluate.add_argument("checkpoint", nargs="?", default=SHIPPED_MODEL, help="(default: the toy model)")
    add_data(evaluate, "evaluate on these, or on their split for that", " (default: toy shapes, seed 1)")
    evaluate.add_argument("--images", type=int, default=500, metavar="N", help="shapes only (default: 500)")
    evaluate.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at once (default: 8)")
    add_device(evaluate)
    add_mine(evaluate)
    add_test_time(evaluate)
    evaluate.add_argument(
        "--interval", action="store_true", help="with 95 %% confidence intervals (bootstrap over the images)"
    )
    evaluate.add_argument(
        "--errors", action="store_true", help="which kinds of errors cost how much AP50; with --out a picture, too"
    )
    evaluate.add_argument("--reference", action="store_true", help="let pycocotools count (the same numbers, slower)")
    evaluate.add_argument("--out", metavar="FILE", help="write the metrics as JSON, too (replaces only such a file)")

    predict = command(
        commands, "predict", _predict, "find the objects in images and films: pictures, tables and a COCO results file",
        "  tinymrcnn predict photo.jpg --preset torchvision_resnet50_fpn --weights FILE.pth\n"
        "  tinymrcnn predict photos/ 'more/*.png' --weights runs/shapes/model.npz --threshold 0.7 --out found\n"
        "  tinymrcnn predict slide.tif --weights runs/cells/model.npz --tile 512 --set max_detections=1000 --no-labels",
    )  # fmt: skip
    predict.add_argument("images", nargs="*", metavar="IMAGE", help="an image, a film, a folder, or a pattern")
    add_data(predict, "take the images of these, and the ids for detections.json")
    predict.add_argument("--preset", help="the model that a public file of weights belongs to")
    predict.add_argument("--weights", "--checkpoint", metavar="FILE", help="(default: the toy model)")
    predict.add_argument(
        "--threshold", type=float, default=0.5, help="the least score to draw and to count (default: 0.5)"
    )
    add_test_time(predict)
    predict.add_argument("--no-boxes", action="store_false", dest="boxes", help="draw no boxes")
    predict.add_argument("--no-labels", action="store_false", dest="labels", help="write no names and scores")
    predict.add_argument(
        "--label-files", choices=("yolo", "labelme"), help="write polygons, to be corrected in a labelling tool, too"
    )
    predict.add_argument(
        "--annotations",
        metavar="JSON",
        help="a COCO annotation file that has the images: its ids go into detections.json",
    )
    predict.add_argument(
        "--font", metavar="FILE", help="of the names, for letters beyond DejaVu Sans (.ttf, .otf, .ttc)"
    )
    add_device(predict)
    add_mine(predict)
    predict.add_argument("--out", default="predictions", metavar="DIR", help="(default: predictions)")

    export = command(
        commands, "export", _export, "write a trained model as an ONNX file, for ONNX Runtime and other programs",
        "  tinymrcnn export runs/shapes/model.npz shapes.onnx\n"
        "  tinymrcnn export FILE.pth photos.onnx --preset torchvision_resnet50_fpn --set score_threshold=0.3",
    )  # fmt: skip
    export.add_argument("weights", metavar="MODEL", nargs="?", default=SHIPPED_MODEL, help="(default: the toy model)")
    export.add_argument("out", metavar="OUT.onnx", help="a new file: the whole model, one image in, its objects out")
    export.add_argument("--preset", help="the model that a public file of weights belongs to")
    export.add_argument(
        "--set", action="append", dest="settings", metavar="FIELD=VALUE", help="a limit, threshold or size of the model"
    )

    data = command(commands, "data", None, "check, show, convert and write data sets").add_subparsers(
        required=True, metavar="WHAT"
    )
    check = command(
        data, "check", _data_check, "say what is wrong with a data set, what it holds, and which settings it asks for",
        "  tinymrcnn data check my_data\n"
        "  tinymrcnn data check images/ annotations.json --preset shapes",
    )  # fmt: skip
    add_source(check)
    check.add_argument("--preset", default="shapes", help="the model that is to be trained (default: shapes)")
    check.add_argument("--out", default="contact_sheet.png", metavar="FILE", help="(default: contact_sheet.png)")
    show = command(
        data, "show", _data_show, "draw images with their objects",
        "  tinymrcnn data show my_data\n"
        "  tinymrcnn data show my_data --images 000017.png '*night*' --out night",
    )  # fmt: skip
    add_source(show)
    show.add_argument(
        "--images", nargs="+", metavar="NAME", help="names or patterns of images (default: 16, evenly spread)"
    )
    show.add_argument("--out", default="shown", metavar="DIR", help="the folder of the pictures (default: shown)")
    convert = command(
        data, "convert", _data_convert, "write a data set of any format that is read here as COCO",
        "  tinymrcnn data convert my_data my_coco\n"
        "  tinymrcnn data convert export.xml my_coco --format cvat",
    )  # fmt: skip
    convert.add_argument("source", metavar="SRC", help="a folder, or the file of annotations")
    convert.add_argument(
        "out", metavar="OUT", help="a new folder: images/ and annotations.json, or a JSON for each split"
    )
    add_format(convert)
    shapes = command(
        data, "shapes", _data_shapes, "write the toy shapes as a COCO data set",
        "  tinymrcnn data shapes --out shapes --num 1000\n"
        "  tinymrcnn data shapes --out wide --num 100 --size 96 192 --seed 7",
    )  # fmt: skip
    shapes.add_argument("--out", required=True, metavar="DIR", help="a new folder: images/ and annotations.json")
    shapes.add_argument("--num", type=int, default=100, metavar="N", help="how many images (default: 100)")
    shapes.add_argument("--size", type=int, nargs="+", default=[128], metavar="N", help="side, or height and width")
    shapes.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    shapes.add_argument(
        "--crowded", nargs="?", const=True, default=False, type=float, metavar="SHARE",
        help="with pairs of overlapping objects of one class, in all pictures or in a share of them (0 to 1)",
    )  # fmt: skip

    bench = command(
        commands, "bench", _bench, "measure the speed and the memory, beside torch (where installed) and pycocotools",
        "  tinymrcnn bench roi                  the RoI operators only\n"
        "  tinymrcnn bench                      everything, into bench_cpu.json\n"
        "  tinymrcnn bench train --profile      where the time of a training step goes\n"
        "  tinymrcnn bench --threads 1 --against torch,ort,openvino,ncnn\n"
        "  mpiexec -n 2 tinymrcnn bench workers what two processes do, against one",
    )  # fmt: skip
    groups = ("roi", "conv", "nms", "paste", "evaluate", "model", "train", "workers", "cores", "all")
    bench.add_argument("group", nargs="?", default="all", choices=groups, help="what to measure (default: all)")
    add_device(bench)
    bench.add_argument("--threads", type=int, metavar="N", help="of both sides (default: the cores)")
    bench.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    bench.add_argument("--profile", action="store_true", help="with train: operator by operator, as table and picture")
    bench.add_argument("--tf32", action="store_true", help="on a GPU: products of float32 with TF32, on both sides")
    bench.add_argument(
        "--against", metavar="ENGINES", help="inference beside engines that are installed: torch,ort,openvino,ncnn"
    )
    bench.add_argument("--out", metavar="FILE", help="the JSON file (default: in data/results, or here)")

    reproduce = command(
        commands, "reproduce", _reproduce, "try the article's tables and figures on toy shapes",
        "  tinymrcnn reproduce list              what there is\n"
        "  tinymrcnn reproduce plan table-2d     what would be run, and how long it takes\n"
        "  tinymrcnn reproduce table-2d          run it, or go on where it was interrupted\n"
        "  tinymrcnn reproduce all               a night on two cores\n"
        "  tinymrcnn reproduce report            the tables and pictures of what is there so far",
    )  # fmt: skip
    reproduce.add_argument("what", metavar="NAME", help="an experiment, or list, plan, all, report")
    reproduce.add_argument("name", nargs="?", metavar="EXPERIMENT", help="with plan: of this one only")
    reproduce.add_argument(
        "--quick", action="store_true", help="a few steps each: shows that it runs, not what comes out"
    )
    reproduce.add_argument("--processes", type=int, metavar="N", help="runs at once, of one thread each (the cores)")
    add_device(reproduce)
    reproduce.add_argument("--out", metavar="DIR", help="the folder of the results (default: in data/results, or runs)")

    command(commands, "models", _models, "list the presets: parameters, operations, and the public files that fit")

    gradcheck = command(
        commands, "gradcheck", _gradcheck, "compare the gradient of every loss of a small model with differences",
        "  tinymrcnn gradcheck\n"
        "  tinymrcnn gradcheck --set roi_op=roi_pool --set mask.loss=softmax",
    )  # fmt: skip
    gradcheck.add_argument("--set", action="append", dest="settings", metavar="FIELD=VALUE", help="any field of Config")

    command(commands, "doctor", _doctor, "examine this machine: versions, threads, BLAS, GPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())

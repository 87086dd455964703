"""Image files of every kind become (3, H, W) RGB in 0..1, and come back from a PNG unchanged."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from tinymrcnn.data import find_images, images, read_image, write_image
from tinymrcnn.data.images import image_size

COLORS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8
)  # 2 rows, 3 columns


def check(image, expected):
    assert image.dtype == np.float32 and image.flags.c_contiguous
    assert image.shape == (3, *expected.shape[:2])
    np.testing.assert_array_equal(image, expected.transpose(2, 0, 1).astype(np.float32) / 255)


def test_rgb_is_channels_first_in_the_order_red_green_blue(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    check(image, COLORS)
    assert image[:, 0, 0].tolist() == [1, 0, 0]


def test_grey_palette_and_bilevel_become_rgb(tmp_path):
    grey = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    check(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, 2))
    Image.fromarray(COLORS).quantize(8).save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as opened:
        assert opened.mode == "P"
    check(read_image(tmp_path / "palette.png"), COLORS)
    Image.fromarray(grey > 50).save(tmp_path / "bilevel.png")
    check(read_image(tmp_path / "bilevel.png"), np.stack([(grey > 50) * np.uint8(255)] * 3, 2))


def test_sixteen_bit_grey_keeps_its_precision(tmp_path):
    grey = np.array([[0, 256, 65535], [1, 2, 40000]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png")
    assert image.dtype == np.float32 and image.shape == (3, 2, 3)
    for channel in image:
        np.testing.assert_array_equal(channel, grey.astype(np.float32) / 65535)


def test_transparency_is_composited_on_white(tmp_path):
    alpha = np.array([[255, 0, 51], [255, 255, 0]], np.uint8)
    Image.fromarray(np.concatenate([COLORS, alpha[:, :, None]], 2)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png").transpose(1, 2, 0)
    np.testing.assert_array_equal(image[alpha == 255], COLORS[alpha == 255].astype(np.float32) / 255)
    assert (image[alpha == 0] == 1).all()
    np.testing.assert_allclose(image[0, 2], [0.8, 0.8, 1.0], rtol=1e-6)  # a fifth of blue, four fifths of white
    grey = Image.fromarray(np.full((2, 3), 100, np.uint8))
    grey.save(tmp_path / "b.png", transparency=100)  # a grey value that means transparent
    assert (read_image(tmp_path / "b.png") == 1).all()


def test_a_transparent_value_of_sixteen_bit_grey(tmp_path):
    grey = np.array([[0, 300, 65535], [1, 2, 300]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=300)
    expected = np.where(grey == 300, 1, grey.astype(np.float32) / 65535)
    for channel in read_image(tmp_path / "a.png"):
        np.testing.assert_array_equal(channel, expected)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_become_rgb(tmp_path, suffix):
    Image.new("CMYK", (24, 16), (0, 255, 255, 0)).save(tmp_path / f"a.{suffix}")  # magenta and yellow make red
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (3, 16, 24)
    np.testing.assert_allclose(image[:, 8, 12], [1, 0, 0], atol=0.02)


# Where the pixel that is stored first, at the top left, belongs in the upright picture: EXIF 2.3, section 4.6.4
CORNERS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize("orientation", CORNERS)
def test_exif_rotation_is_applied(tmp_path, orientation):
    """Row 0 of the file is the named side of the picture, column 0 the other one."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLORS).save(tmp_path / "a.png", exif=exif)
    rows, columns = CORNERS[orientation]
    upright = COLORS if rows in ("top", "bottom") else COLORS.transpose(1, 0, 2)
    upright = upright[::-1] if "bottom" in (rows, columns) else upright
    upright = upright[:, ::-1] if "right" in (rows, columns) else upright
    check(read_image(tmp_path / "a.png"), upright)


@pytest.mark.parametrize(
    "mode, suffix", [*((mode, "tif") for mode in ("L", "RGB", "CMYK", "I;16")), ("I;16", "png"), ("CMYK", "jpg")]
)
def test_every_kind_of_pixels_is_turned(tmp_path, mode, suffix):
    """Pillow itself mixes up the pixels of some TIFF files that are turned, when it opens them by their names."""
    values = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) * 150
    grey = values if mode == "I;16" else (values // 256).astype(np.uint8)
    pixels = Image.fromarray(grey) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    pixels.save(tmp_path / f"plain.{suffix}")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(tmp_path / f"turned.{suffix}", exif=exif)
    expected = np.rot90(read_image(tmp_path / f"plain.{suffix}"), -1, (1, 2))
    np.testing.assert_array_equal(read_image(tmp_path / f"turned.{suffix}"), expected)
    assert image_size(tmp_path / f"turned.{suffix}") == (24, 16)


def test_damaged_exif_data_is_no_reason_to_refuse_a_photograph(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0  # the orientation, and a resolution
    Image.fromarray(np.tile(COLORS, (20, 20, 1))).save(tmp_path / "a.jpg", exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    start = content.index(b"Exif\0\0") + 6
    resolution = content.index(b"\x01\x1a\x00\x05", start)
    damaged = content[: resolution + 2] + b"\x00\x02" + content[resolution + 4 :]  # a text, says its type
    (tmp_path / "b.jpg").write_bytes(damaged)
    assert read_image(tmp_path / "a.jpg").shape == (3, 60, 40)
    np.testing.assert_array_equal(read_image(tmp_path / "b.jpg"), read_image(tmp_path / "a.jpg"))


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image file .*nothing.png"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="text.png' cannot be read as an image"):
        read_image(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match="half.png' cannot be read as an image"):
        read_image(tmp_path / "half.png")
    Image.fromarray(np.ones((2, 3), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="float.tif.*floating-point"):
        read_image(tmp_path / "float.tif")


def test_an_absurdly_large_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 6)
    check(read_image(tmp_path / "a.png"), COLORS)
    monkeypatch.setattr(images, "MAX_PIXELS", 5)
    monkeypatch.setattr(Image.Image, "load", None)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match="a.png' cannot be read as an image: it has more than .* make it smaller"):
            read(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    for limit, action in ((2, "default"), (4, "error")):  # Pillow's own: an error from twice as many on, else a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(ValueError, match="a.png' cannot be read as an image: it has more than"):
                read_image(tmp_path / "a.png")


EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 30 20
%%EndComments
showpage
"""


def test_no_other_program_is_started(tmp_path, monkeypatch):
    """An EPS file makes Pillow start Ghostscript, whatever its suffix says."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho run >> {tmp_path}/run\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "innocent.png").write_text(EPS)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match="innocent.png' cannot be read as an image: .* of no format that is read"):
            read(tmp_path / "innocent.png")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error, message",
    [
        (RuntimeError("Failed to decode.\nGive up"), r"cannot be read as an image: Failed to decode\.\\nGive up\.$"),
        (NotImplementedError(), r"cannot be read as an image: NotImplementedError\.$"),
        (MemoryError(), "cannot be read as an image: the memory does not suffice; make it smaller"),
        (IndexError("list index"), "cannot be read as an image: list index"),
    ],
)
def test_every_error_of_a_decoder_names_the_file(tmp_path, monkeypatch, error, message):
    def fail(*args):
        raise error

    Image.fromarray(COLORS).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ValueError, match=f"a.png' {message}"):
        read_image(tmp_path / "a.png")


# The size alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_the_size_is_known_without_decoding(tmp_path, monkeypatch, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(COLORS, (8, 8, 1))).save(path, exif=exif)
    expected = read_image(path).shape[1:]
    assert expected == ((16, 24) if orientation < 5 else (24, 16))
    monkeypatch.setattr(Image.Image, "load", None)
    assert image_size(path) == expected


def test_of_a_file_that_is_not_whole_there_is_no_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3)).astype(np.uint8)
    for suffix in ("png", "jpg"):
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
        whole = (tmp_path / f"a.{suffix}").read_bytes()
        (tmp_path / f"half.{suffix}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"more.{suffix}").write_bytes(whole + bytes(3000))  # what cameras append is no damage
        assert image_size(tmp_path / f"more.{suffix}") == image_size(tmp_path / f"a.{suffix}") == (50, 60)
        with pytest.raises(ValueError, match=f"half.{suffix}' cannot be read as an image"):
            image_size(tmp_path / f"half.{suffix}")
    with pytest.raises(FileNotFoundError, match="no image file"):
        image_size(tmp_path / "none.png")


# Finding -------------------------------------------------------------------------------------------------


def test_brackets_of_a_folder_that_exists_are_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos [2024]/a.png", "photos [2024]/b1.png", "photos 2/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(["photos [2024]/*.png"]) == (["photos [2024]/a.png", "photos [2024]/b1.png"], [])
    assert find_images(["photos [2024]/b[0-9].png"]) == (["photos [2024]/b1.png"], [])
    assert find_images(["photos [2]/*.png"]) == (["photos 2/c.png"], [])  # no such folder: a class of characters
    assert find_images([f"{tmp_path}/photos [[]2024]/a.*"])[0] == [f"{tmp_path}/photos [2024]/a.png"]
    assert find_images(["\n[1]"]) == ([], ["No file fits the pattern '\\n[1]'."])


def test_images_of_a_folder_are_known_by_every_suffix_that_is_read(tmp_path):
    names = ["a.avif", "b.jfif", "c.jp2", "d.JPE", "e.PNG", "f.dib", "g.pbm"]
    for name in [*names, "h.eps", "i.txt", "j.pdf", ".k.png", "l_predicted.png"]:
        (tmp_path / name).write_bytes(b"")
    assert find_images([tmp_path])[0] == [str(tmp_path / name) for name in names]


# Writing -------------------------------------------------------------------------------------------------


def test_written_and_read_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.float32) / 255
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    write_image(tmp_path / "a.png", np.array([-0.5, 0.5, 1.5]).reshape(3, 1, 1) * np.ones((3, 4, 6)))
    assert [channel.max() * 255 for channel in read_image(tmp_path / "a.png")] == [0, 128, 255]
    write_image(tmp_path / "a.jpg", image)
    assert read_image(tmp_path / "a.jpg").shape == (3, 5, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 7, 3), np.float32), np.zeros((3, 5, 7), np.uint8), np.full((3, 5, 7), np.nan), np.zeros((5, 7))],
)
def test_what_is_no_image_is_not_written(tmp_path, image):
    with pytest.raises(ValueError, match=r"takes a \(3, H, W\) array of finite floats"):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_image(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", np.zeros((3, 5, 7), np.float32))
    before = (tmp_path / "a.png").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "a.png", np.ones((3, 5, 7), np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == before


def test_a_size_that_a_format_cannot_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match="a.jpg' cannot be written as JPEG"):
        write_image(tmp_path / "a.jpg", np.zeros((3, 1, 70_000), np.float32))
    assert not list(tmp_path.iterdir())


def test_unknown_suffix_is_named(tmp_path):
    with pytest.raises(ValueError, match="a.xyz' names no image format"):
        write_image(tmp_path / "a.xyz", np.zeros((3, 5, 7), np.float32))

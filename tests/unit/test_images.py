"""Bytes to pixels: every format and mode, every way to be broken."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.image.decode import (
    SCALED_MARGIN,
    decode,
    from_nested_list,
    load,
    open_image,
    prepare,
    stored_mode,
)
from marquee.handlers.inputs.image.spec import ImageSpec

RGB = ImageSpec(channels=3, resize=32, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = ImageSpec(channels=1, resize=32, crop=32)


def encode(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def photo(width: int = 48, height: int = 40) -> Image.Image:
    """A smooth colour gradient, which lossy formats keep well."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 12),
        ("JPEG", {"quality": 95, "progressive": True}, 12),
        ("WEBP", {"quality": 95}, 12),
    ],
)
def test_formats_decode_to_the_same_pixels(format, options, tolerance):
    pixels = np.asarray(decode(encode(photo(), format, **options), RGB)).astype(int)
    assert np.abs(pixels - np.asarray(photo()).astype(int)).max() <= tolerance


def test_phone_photos_in_mpo_format_decode():
    data = encode(photo(), "MPO", save_all=True, append_images=[photo()])
    assert decode(data, RGB).size == (48, 40)


def test_gif_gives_its_first_frame():
    frames = [Image.new("P", (40, 40), i) for i in range(2)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 255, 0])
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, RGB).getpixel((5, 5)) == (255, 0, 0)


def test_greyscale_becomes_three_equal_channels():
    pixels = load(encode(Image.new("L", (40, 40), 77), "PNG"), RGB)
    assert pixels.shape == (32, 32, 3)
    assert (pixels == 77).all()


def test_colour_becomes_grey_for_a_grey_model():
    pixels = load(encode(Image.new("RGB", (40, 40), (0, 255, 0)), "PNG"), GREY)
    assert pixels.shape == (32, 32, 1)
    assert (pixels == 150).all()  # ITU-R 601 luma of green: 0.587 * 255


def test_one_bit_images_are_black_and_white():
    assert decode(encode(Image.new("1", (8, 8), 1), "PNG"), GREY).getpixel((0, 0)) == 255


def test_alpha_is_composed_over_the_background():
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode(encode(half, "PNG"), RGB).getpixel((0, 0)) == (255, 255, 255)
    half.putalpha(128)
    assert decode(encode(half, "PNG"), RGB).getpixel((0, 0)) == (255, 127, 127)


def test_transparent_palette_entries_are_composed_too():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    data = encode(image, "PNG", transparency=0)
    assert decode(data, RGB).getpixel((0, 0)) == (255, 255, 255)


def test_grey_with_alpha():
    assert decode(encode(Image.new("LA", (8, 8), (0, 0)), "PNG"), GREY).getpixel((0, 0)) == 255


def test_cmyk_jpeg():
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode(data, RGB).getpixel((8, 8))
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(format):
    image = Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16))
    assert decode(encode(image, format), GREY).getpixel((0, 0)) == 0x80
    assert decode(encode(image, format), RGB).getpixel((0, 0)) == (0x80, 0x80, 0x80)


def test_thirty_two_bit_grey_is_refused():
    with pytest.raises(InputError, match="no defined white") as caught:
        decode(encode(Image.new("F", (8, 8), 0.5), "TIFF"), GREY)
    assert caught.value.code == "unsupported_image"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = Image.new("RGB", (40, 20))
    upright.paste((255, 0, 0), (0, 0, 20, 20))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(stored, "PNG", exif=exif), RGB)
    assert decoded.size == (40, 20)
    assert decoded.getpixel((5, 10)) == (255, 0, 0)
    assert decoded.getpixel((35, 10)) == (0, 0, 0)


def test_damaged_exif_does_not_lose_the_picture():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\x06"
    assert decode(encode(photo(), "JPEG", exif=exif), RGB).size == (48, 40)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_an_error_and_no_half_picture(format):
    data = encode(photo(400, 300), format)
    with pytest.raises(InputError) as caught:
        decode(data[: len(data) // 2], RGB)
    assert caught.value.code in ("corrupt_image", "not_an_image")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"just text", "not_an_image"),
        (b"%PDF-1.4 ...", "not_an_image"),
        (b"\x00" * 5000, "not_an_image"),
        (b"\xff\xd8\xff\xe0garbage", "not_an_image"),
    ],
)
def test_not_an_image(data, code):
    with pytest.raises(InputError) as caught:
        decode(data, RGB)
    assert caught.value.code == code


def test_random_damage_is_always_an_input_error():
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = np.frombuffer(encode(photo(), format), np.uint8)
        for _ in range(150):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
            try:
                assert load(damaged.tobytes(), RGB).shape == (32, 32, 3)
            except InputError as error:
                assert error.status in (400, 413)


def test_formats_that_are_not_listed_stay_closed():
    with pytest.raises(InputError) as caught:
        decode(encode(photo(), "PPM"), RGB)
    assert caught.value.code == "not_an_image"


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_too_many_pixels_is_seen_in_the_header():
    with pytest.raises(InputError, match="60000 x 60000") as caught:
        decode(png_header(60_000, 60_000), RGB)
    assert (caught.value.code, caught.value.status) == ("too_many_pixels", 413)


def test_too_many_bytes():
    small = ImageSpec(channels=1, resize=8, crop=8, max_bytes=100)
    with pytest.raises(InputError) as caught:
        decode(b"x" * 101, small)
    assert (caught.value.code, caught.value.status) == ("too_large", 413)


def test_prepare_is_resize_then_centre_crop():
    spec = ImageSpec(channels=3, resize=40, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = photo(160, 80)
    reference = image.resize((80, 40), Image.Resampling.BILINEAR).crop((24, 4, 56, 36))
    assert np.abs(prepare(image, spec).astype(int) - np.asarray(reference).astype(int)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 7), (31, 33)])
def test_any_shape_of_image_fits(size):
    assert prepare(Image.new("RGB", size), RGB).shape == (32, 32, 3)


def test_stored_mode():
    assert stored_mode(encode(Image.new("L", (8, 8)), "PNG")) == "L"
    assert stored_mode(encode(photo(), "JPEG")) == "RGB"


class TestScaledDecode:
    SCALED = replace(RGB, decode="scaled")

    @pytest.mark.parametrize(
        ("size", "decoded"),
        [
            ((640, 512), (80, 64)),  # an eighth still has twice the 32 pixels of the resize
            ((640, 504), (160, 126)),  # an eighth would have 63
            ((300, 255), (150, 128)),  # sizes are rounded up
            ((500, 127), (500, 127)),
            ((5000, 40), (5000, 40)),  # the short side decides
            ((20, 20), (20, 20)),
        ],
    )
    def test_size(self, size, decoded):
        data = encode(photo(*size), "JPEG")
        assert decode(data, self.SCALED).size == decoded
        assert decode(data, RGB).size == size
        assert decode(encode(photo(*size), "PNG"), self.SCALED).size == size

    def test_as_large_as_the_caller_needs(self):
        data = encode(photo(800, 800), "JPEG")
        assert [decode(data, self.SCALED, side).size[0] for side in (50, 51, 100, 101, 200, 201)] == [
            100, 200, 200, 400, 400, 800,
        ]  # fmt: skip
        assert SCALED_MARGIN == 2
        assert decode(data, RGB, 50).size == (800, 800)

    @pytest.mark.parametrize(
        "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}, {"quality": 60}]
    )
    @pytest.mark.parametrize("spec", [RGB, GREY], ids=["rgb", "grey"])
    def test_nearly_the_pixels_of_a_full_decode(self, options, spec):
        data = encode(photo(640, 512), "JPEG", **{"quality": 95, **options})
        apart = load(data, replace(spec, decode="scaled")).astype(int) - load(data, spec)
        assert 0 < np.abs(apart).max() <= 6
        assert np.abs(apart).mean() < 1

    def test_grey_cmyk_and_mpo(self):
        grey = encode(photo(640, 512).convert("L"), "JPEG")
        cmyk = encode(photo(640, 512).convert("CMYK"), "JPEG", quality=95)
        mpo = encode(photo(640, 512), "MPO", save_all=True, append_images=[photo(640, 512)])
        for data in (grey, cmyk, mpo):
            assert decode(data, self.SCALED).size == (80, 64)
            assert decode(data, self.SCALED).mode == "RGB"
            assert np.abs(load(data, self.SCALED).astype(int) - load(data, RGB)).max() <= 6

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_rotation_is_applied(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(photo(640, 512), "JPEG", exif=exif)
        assert decode(data, self.SCALED).size == ((80, 64) if orientation < 5 else (64, 80))
        assert np.abs(load(data, self.SCALED).astype(int) - load(data, RGB)).max() <= 6

    def test_limits_are_those_of_the_file(self):
        data = encode(photo(640, 512), "JPEG")
        with pytest.raises(InputError, match="640 x 512"):
            decode(data, replace(self.SCALED, max_pixels=640 * 512 - 1))
        assert open_image(data, self.SCALED).size == (640, 512)

    @pytest.mark.parametrize("options", [{}, {"progressive": True}])
    @pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
    def test_a_truncated_file_is_the_same_error(self, options, kept):
        data = encode(photo(640, 512), "JPEG", **options)
        found = []
        for spec in (RGB, self.SCALED):
            with pytest.raises(InputError) as caught:
                decode(data[: int(len(data) * kept)], spec)
            found.append((caught.value.code, caught.value.message))
        assert found[0] == found[1]
        assert found[0][0] == "corrupt_image"

    def test_random_damage_is_always_an_input_error(self):
        rng = np.random.default_rng(1)
        data = np.frombuffer(encode(photo(640, 512), "JPEG"), np.uint8)
        for _ in range(200):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
            try:
                assert load(damaged.tobytes(), self.SCALED).shape == (32, 32, 3)
            except InputError as error:
                assert error.status in (400, 413)

    def test_a_spec_that_does_not_say_it_decodes_in_full(self):
        assert ImageSpec(channels=1, resize=8, crop=8).decode == "full"


class TestNestedList:
    def test_integers_are_levels(self):
        assert np.asarray(from_nested_list([[0, 128], [255, 1]], GREY)).tolist() == [[0, 128], [255, 1]]

    def test_floats_are_shares(self):
        assert np.asarray(from_nested_list([[0.0, 0.5], [1.0, 1]], GREY)).tolist() == [[0, 128], [255, 255]]

    def test_colour(self):
        image = from_nested_list([[[255, 0, 0], [0, 255, 0]]], RGB)
        assert image.getpixel((1, 0)) == (0, 255, 0)

    def test_one_channel_as_a_third_dimension(self):
        assert np.asarray(from_nested_list([[[7], [8]]], GREY)).tolist() == [[7, 8]]

    def test_equals_the_same_picture_as_a_file(self):
        pixels = np.asarray(photo())
        assert (prepare(from_nested_list(pixels.tolist(), RGB), RGB) == load(encode(photo(), "PNG"), RGB)).all()

    @pytest.mark.parametrize(
        "values",
        [
            [],
            [[]],
            [1, 2],
            5,
            None,
            "text",
            [["a"]],
            [[True, False]],
            [[1, 2], [3]],
            [[1, None]],
            [[256]],
            [[-1]],
            [[1.5]],
            [[-0.1]],
            [[float("nan")]],
            [[10**30]],
            [[[1, 2]]],
            [[[[1]]]],
            {"a": 1},
        ],
    )
    def test_nonsense(self, values):
        with pytest.raises(InputError) as caught:
            from_nested_list(values, GREY)
        assert caught.value.code == "bad_image_data"

    def test_too_many_pixels(self):
        small = ImageSpec(channels=1, resize=8, crop=8, max_pixels=3)
        with pytest.raises(InputError) as caught:
            from_nested_list([[0, 0], [0, 0]], small)
        assert caught.value.code == "too_many_pixels"

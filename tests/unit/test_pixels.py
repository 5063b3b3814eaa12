"""What a file's samples mean: alpha, depth, what is white, and colours by their profile."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.schema import SchemaError, from_dict, to_dict
from marquee.handlers.inputs.image.decode import decode, examine, load, stored_mode, stored_samples
from marquee.handlers.inputs.image.spec import ImageSpec
from tests.unit.picture_files import SIDE, bmp32, chunk, dark_top, png, tiff

RGB = ImageSpec(channels=3, resize=SIDE, crop=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3, reading="file")
GREY = ImageSpec(channels=1, resize=SIDE, crop=SIDE, reading="file")
RED = (220, 30, 20)


def grey(data: bytes, spec: ImageSpec = GREY) -> tuple[int, int]:
    """The levels of the upper and the lower half, each of which has to have one."""
    pixels = load(data, spec)
    top, bottom = pixels[: SIDE // 2], pixels[SIDE // 2 :]
    assert np.ptp(top) == np.ptp(bottom) == 0
    return int(top[0, 0, 0]), int(bottom[0, 0, 0])


def first(data: bytes, spec: ImageSpec = RGB) -> tuple[int, ...]:
    return tuple(load(data, spec)[0, 0].tolist())


def refused(data: bytes, spec: ImageSpec = RGB) -> str:
    with pytest.raises(InputError) as caught:
        load(data, spec)
    assert caught.value.code == "unsupported_image"
    assert caught.value.status == 400
    return caught.value.message


def filled(*values: int, dtype=np.uint8) -> np.ndarray:
    return np.broadcast_to(np.array(values, dtype), (SIDE, SIDE, len(values)))


def saved(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


class TestAlpha:
    @pytest.mark.parametrize("header", [108, 124])
    def test_a_bmp_whose_alpha_is_zero_everywhere_is_opaque(self, header):
        assert first(bmp32(filled(*RED, 0), header)) == RED

    def test_a_bmp_with_some_alpha_is_composed(self):
        pixels = filled(*RED, 0).copy()
        pixels[SIDE // 2 :, :, 3] = 255
        assert first(bmp32(pixels)) == (255, 255, 255)
        assert tuple(load(bmp32(pixels), RGB)[-1, -1]) == RED

    def test_a_png_that_is_transparent_everywhere_is_the_background(self):
        assert first(png(filled(*RED, 0)), replace(RGB, background=7)) == (7, 7, 7)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize(
        ("extra", "alpha", "expected"),
        [
            ((2,), 0, (255, 255, 255)),
            ((2,), 255, RED),
            ((1,), 255, RED),
            ((0,), 0, RED),  # explicitly no alpha
        ],
    )
    def test_the_fourth_sample_of_a_tiff_is_what_extra_samples_says(self, extra, alpha, expected, order):
        assert first(tiff(filled(*RED, alpha), 2, order=order, tags={338: extra})) == expected

    @pytest.mark.parametrize("tags", [{}, {338: (999,)}])
    def test_a_fourth_sample_that_nothing_describes(self, tags):
        assert "TIFF with 4 bands: RGB and 1 that ExtraSamples does not describe" in refused(
            tiff(filled(*RED, 0), 2, tags=tags)
        )

    @pytest.mark.parametrize("tags", [{}, {338: (0, 0, 0)}])
    def test_bands_of_grey(self, tags):
        assert "TIFF with 4 grey bands" in refused(tiff(filled(1, 2, 3, 4), 1, tags=tags))

    def test_two_grey_bands_of_which_none_is_alpha(self):
        assert "TIFF with 2 grey bands" in refused(tiff(filled(1, 2), 1, tags={338: (0,)}))

    def test_sixteen_bit_rgb_with_a_fourth_sample(self):
        pixels = filled(*(level * 257 for level in RED), 0, dtype=np.uint16)
        assert "4 bands" in refused(tiff(pixels, 2))
        assert first(tiff(pixels, 2, tags={338: (2,)})) == (255, 255, 255)
        assert first(tiff(pixels, 2, tags={338: (0,)})) == RED

    @pytest.mark.parametrize("deflate", [False, True])
    @pytest.mark.parametrize("photometric", [0, 1])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_grey_with_alpha(self, photometric, dtype, order, deflate):
        most = np.iinfo(dtype).max
        level = most // 5 if photometric else most - most // 5  # 51 of 255
        opaque, clear, half = (
            tiff(filled(level, alpha, dtype=dtype), photometric, order=order, tags={338: (2,)}, deflate=deflate)
            for alpha in (most, 0, most // 2 + 1)
        )
        assert grey(opaque) == (51, 51)
        assert grey(clear) == (255, 255)
        assert grey(half)[0] == pytest.approx((51 + 255) / 2, abs=1)

    def test_grey_that_is_multiplied_by_its_alpha(self):
        half = tiff(filled(100, 128), 1, tags={338: (1,)})
        assert grey(half)[0] == pytest.approx(100 + 127, abs=1)
        assert grey(tiff(filled(0, 0), 1, tags={338: (1,)})) == (255, 255)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_the_transparent_grey_of_a_png_is_compared_in_its_own_depth(self, bits):
        most = (1 << bits) - 1
        key = min(most, 0x1234) & ~1 if bits > 1 else 0
        values = dark_top(key, key + 1)  # one apart, of which only one is transparent
        data = png(values, bits, before=chunk(b"tRNS", struct.pack(">H", key)))
        opaque = (key + 1) * 255 // most if bits <= 8 else (key + 1) >> 8
        assert grey(data, replace(GREY, background=99)) == (99, opaque)

    def test_only_the_bits_of_a_sample_count_in_the_transparent_colour(self):
        data = png(dark_top(5, 6), before=chunk(b"tRNS", struct.pack(">H", 0x0105)))
        assert grey(data) == (255, 6)

    @pytest.mark.parametrize("bits", [8, 16])
    def test_the_transparent_colour_of_an_rgb_png(self, bits):
        key = (10, 20, 30) if bits == 8 else (0x0A01, 0x1402, 0x1E03)
        near = (*key[:2], key[2] + 1)
        values = np.where(dark_top(0, 1)[..., None] == 0, key, near)
        data = png(values, bits, before=chunk(b"tRNS", struct.pack(">HHH", *key)))
        assert first(data) == (255, 255, 255)
        assert tuple(load(data, RGB)[-1, -1]) == tuple(level >> (bits - 8) for level in near)

    def test_transparent_palette_entries(self):
        palette = chunk(b"PLTE", bytes([*RED, 1, 2, 3])) + chunk(b"tRNS", bytes([0, 255]))
        data = png(dark_top(0, 1), 8, colour=3, before=palette)
        assert first(data) == (255, 255, 255)
        assert tuple(load(data, RGB)[-1, -1]) == (1, 2, 3)

    def test_ordinary_alpha_is_as_it_was(self):
        for mode, colour in (("RGBA", (255, 0, 0, 128)), ("LA", (40, 128))):
            data = saved(Image.new(mode, (8, 8), colour), "PNG")
            assert (load(data, RGB) == load(data, replace(RGB, reading="pillow"))).all()


class TestDepth:
    @pytest.mark.parametrize("deflate", [False, True])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("photometric", [0, 1])
    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
    def test_grey_of_every_depth(self, bits, photometric, order, deflate):
        most = (1 << bits) - 1
        low, high = (0, most) if bits == 1 else (most // 3, most // 3 * 2)
        values = dark_top(low, high) if photometric else dark_top(most - low, most - high)
        dtype = np.uint16 if bits > 8 else np.uint8
        found = grey(tiff(values.astype(dtype), photometric, bits, order, deflate=deflate))
        assert found == pytest.approx((255 * low / most, 255 * high / most), abs=1)

    @pytest.mark.parametrize("deflate", [False, True])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("planar", [False, True])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_rgb(self, dtype, planar, order, deflate):
        scale = 1 if dtype == np.uint8 else 257
        pixels = filled(*(level * scale for level in RED), dtype=dtype)
        assert first(tiff(pixels, 2, order=order, planar=planar, deflate=deflate)) == RED

    def test_a_width_that_is_no_multiple_of_a_byte(self):
        values = np.arange(7 * 5).reshape(5, 7).astype(np.uint16) * 100
        decoded = np.asarray(decode(tiff(values, 1, 12), GREY))
        assert np.array_equal(decoded, values >> 4)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("photometric", [0, 1])
    @pytest.mark.parametrize("depth", [8, 10, 12, 14])
    def test_max_sample_value_that_is_a_depth(self, depth, photometric, order):
        most = (1 << depth) - 1
        values = dark_top(0, most) if photometric else dark_top(most, 0)
        data = tiff(values.astype(np.uint16), photometric, order=order, tags={281: (most,)})
        assert grey(data) == (0, 255)

    def test_max_sample_value_of_colour(self):
        pixels = filled(*(level * 16 for level in RED), dtype=np.uint16)
        assert first(tiff(pixels, 2, tags={281: (4095,) * 3})) == RED

    def test_max_sample_value_that_is_a_statistic(self):
        data = tiff(dark_top(0, 0x3000).astype(np.uint16), 1, tags={281: (0x3000,)})
        assert grey(data) == (0, 0x30)

    def test_values_above_white_are_white(self):
        data = tiff(dark_top(4095, 60000).astype(np.uint16), 1, tags={281: (4095,)})
        assert grey(data) == (255, 255)

    @pytest.mark.parametrize(
        ("dtype", "kind"),
        [
            (np.int16, "signed 16-bit grey"),
            (np.uint32, "32-bit grey"),
            (np.int32, "signed 32-bit grey"),
            (np.float32, "floating-point 32-bit grey"),
            (np.float16, "floating-point 16-bit grey"),
        ],
    )
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_without_a_defined_white_a_window_has_to_say_it(self, dtype, kind, order):
        low = 50 if dtype == np.uint32 else -100
        data = tiff(dark_top(low, 300).astype(dtype), 1, order=order)
        assert f"TIFF with {kind} samples" in refused(data)
        assert "--image.window" in refused(data)
        assert grey(data, replace(GREY, window=(low, 300.0))) == (0, 255)
        assert grey(data, replace(GREY, window=(low - 51.0, low + 204.0))) == (51, 255)
        turned = tiff(dark_top(low, 300).astype(dtype), 0, order=order, deflate=True)
        assert grey(turned, replace(GREY, window=(low, 300.0))) == (255, 0)

    def test_numbers_that_are_none(self):
        values = dark_top(0, 1).astype(np.float32)
        values[0, 0] = np.nan
        values[0, 1] = np.inf
        pixels = load(tiff(values, 1), replace(GREY, window=(0.0, 1.0)))
        assert pixels[0, :3, 0].tolist() == [0, 255, 0]

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (tiff(filled(1, 2, 3, dtype=np.int8), 2), "signed 8-bit RGB"),
            (tiff(dark_top(1, 2).astype(np.int8), 1), "signed 8-bit grey"),
            (tiff(dark_top(1, 2).astype(np.uint8), 32803), "a camera's raw data"),
            (tiff(filled(1, 2, 3), 9), "ICC L*a*b*"),
            (tiff(filled(1, 2, 3, 4), 5, tags={332: (2,)}), "inks that are not CMYK"),
            (tiff(filled(1, 2, 3), 2, tags={258: (8, 8, 5)}), "samples of 8, 8, 5 bits"),
            (tiff(dark_top(1, 2).astype(np.uint16), 1, bits=10), "10-bit grey"),
            (tiff(filled(1, 2, 3, dtype=np.uint16), 2, bits=12), "12-bit RGB"),
            (tiff(filled(1, 2), 1, tags={338: (2,)}, planar=True), "8-bit grey and 1 more samples in planes"),
            (tiff(filled(1, 2, 3), 2, tags={259: (34712,)}), "JPEG 2000"),
            (tiff(dark_top(1, 2).astype(np.uint8), 1, tags={50706: (1,)}), "a camera's raw file"),
            (tiff(dark_top(1, 2).astype(np.uint16), 1, tags={266: (2,)}), "in reverse"),
        ],
    )
    def test_kinds_that_are_refused_by_name(self, data, kind):
        assert kind in refused(data)

    def test_a_file_that_does_not_say_what_is_white(self):
        assert grey(tiff(dark_top(50, 200).astype(np.uint8), None)) == (50, 200)
        assert first(tiff(filled(*RED), None)) == RED

    def test_a_palette_of_eight_bits(self):
        """Old writers stored 0 to 255 where 0 to 65535 is meant."""
        colours = [*RED] + [0] * (3 * 256 - 3)
        levels = [colours[i * 3 + band] for band in range(3) for i in range(256)]
        assert first(tiff(dark_top(0, 1).astype(np.uint8), 3, tags={320: levels})) == RED
        assert first(tiff(dark_top(0, 1).astype(np.uint8), 3, tags={320: [v * 257 for v in levels]})) == RED

    def test_sixteen_bit_png(self):
        assert grey(png(dark_top(0x3200, 0xC8FF), 16)) == (0x32, 0xC8)
        assert first(png(filled(*(v * 257 for v in RED), dtype=np.uint16), 16)) == RED
        assert grey(png(filled(0x3200, 0xFFFF, dtype=np.uint16), 16)) == (0x32, 0x32)

    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_deep_pixels_are_turned_upright(self, orientation):
        values = (np.arange(6 * 4).reshape(4, 6) * 2500).astype(np.uint16)
        data = tiff(values, 0, tags={274: (orientation,)})
        turned = np.rot90(255 - (values >> 8), {1: 0, 3: 2, 6: -1}[orientation])
        assert np.array_equal(np.asarray(decode(data, GREY)), turned)


class TestWindow:
    SPEC = replace(GREY, window=(1000.0, 3000.0))

    @pytest.mark.parametrize(
        "data",
        [
            tiff(dark_top(1000, 2000).astype(np.uint16), 1),
            tiff(dark_top(1000, 2000).astype(np.uint16), 1, bits=12),
            tiff(dark_top(1000, 2000).astype(np.uint16), 1, order=">", deflate=True),
            png(dark_top(1000, 2000), 16),
            png(np.stack([dark_top(1000, 2000)] * 3, axis=-1), 16),
            tiff(np.stack([dark_top(1000, 2000)] * 3, axis=-1).astype(np.uint16), 2),
            tiff(np.stack([dark_top(1000, 2000)] * 3, axis=-1).astype(np.uint16), 2, order=">", deflate=True),
            png(np.stack([dark_top(1000, 2000), dark_top(65535, 65535)], axis=-1), 16),
            png(np.stack([dark_top(1000, 2000)] * 3 + [dark_top(65535, 65535)], axis=-1), 16),
        ],
    )
    def test_it_is_in_the_files_own_values(self, data):
        assert grey(data, self.SPEC) == pytest.approx((0, 127.5), abs=1)

    def test_values_outside_are_black_and_white(self):
        assert grey(png(dark_top(0, 65535), 16), self.SPEC) == (0, 255)

    def test_low_values_are_white_where_white_is_zero(self):
        assert grey(tiff(dark_top(1000, 3000).astype(np.uint16), 0), self.SPEC) == (255, 0)

    def test_eight_bits_are_as_ever(self):
        assert grey(png(dark_top(10, 200)), self.SPEC) == (10, 200)

    def test_transparent_colours_are_compared_before_it(self):
        data = png(dark_top(1000, 1001), 16, before=chunk(b"tRNS", struct.pack(">H", 1001)))
        assert grey(data, self.SPEC) == (0, 255)

    @pytest.mark.parametrize("window", [(1.0,), (2.0, 2.0), (3.0, 2.0), (1.0, 2.0, 3.0)])
    def test_nonsense(self, window):
        with pytest.raises(ValueError, match="window: expected low < high"):
            replace(GREY, window=window)

    def test_the_samples_of_a_file(self):
        found = stored_samples(png(dark_top(1000, 1001), 16), GREY)
        assert np.unique(found.values).tolist() == [1000, 1001]
        assert stored_samples(png(dark_top(10, 11)), GREY) is None


class TestProfile:
    SPEC = replace(RGB, profile="srgb")

    @staticmethod
    def wide_gamut() -> bytes:
        """A profile whose red and green are exchanged with sRGB's: nothing that rounding could be taken for."""
        profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        places = {}
        for i in range(struct.unpack(">I", profile[128:132])[0]):
            name, start, size = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
            places[name] = (start, size)
        red, green = (slice(places[name][0], sum(places[name])) for name in (b"rXYZ", b"gXYZ"))
        profile[red], profile[green] = bytes(profile[green]), bytes(profile[red])
        return bytes(profile)

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
    def test_it_is_ignored_or_converted(self, format):
        options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
        data = saved(Image.new("RGB", (SIDE, SIDE), (200, 40, 30)), format, icc_profile=self.wide_gamut(), **options)
        assert first(data) == pytest.approx((200, 40, 30), abs=4)
        assert first(data, self.SPEC) == pytest.approx((40, 200, 30), abs=5)

    @pytest.mark.parametrize("mode", ["RGBA", "P"])
    def test_with_alpha_and_with_a_palette(self, mode):
        image = Image.new("RGBA", (SIDE, SIDE), (200, 40, 30, 255))
        image = image if mode == "RGBA" else image.convert("RGB").quantize(4)
        data = saved(image, "PNG", icc_profile=self.wide_gamut())
        assert first(data, self.SPEC) == pytest.approx((40, 200, 30), abs=2)

    def test_transparent_parts_get_the_background_itself(self):
        data = saved(Image.new("RGBA", (SIDE, SIDE), (200, 40, 30, 0)), "PNG", icc_profile=self.wide_gamut())
        assert first(data, replace(self.SPEC, background=77)) == (77, 77, 77)

    def test_srgb_stays_what_it_is(self):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = saved(Image.new("RGB", (SIDE, SIDE), RED), "PNG", icc_profile=profile)
        assert first(data, self.SPEC) == pytest.approx(RED, abs=1)

    @pytest.mark.parametrize("profile", [b"", b"no profile", b"\0" * 200])
    def test_a_damaged_one_converts_nothing(self, profile):
        data = saved(Image.new("RGB", (SIDE, SIDE), RED), "TIFF", icc_profile=profile or None)
        assert first(data, self.SPEC) == RED

    def test_one_for_another_kind_of_image_converts_nothing(self):
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        data = saved(Image.new("RGB", (SIDE, SIDE), RED), "PNG", icc_profile=lab)
        assert first(data, self.SPEC) == RED
        colour = saved(Image.new("L", (SIDE, SIDE), 90), "PNG", icc_profile=self.wide_gamut())
        assert first(colour, self.SPEC) == (90, 90, 90)


class TestExamine:
    def test_an_ordinary_file(self):
        found = examine(saved(Image.linear_gradient("L"), "PNG"), RGB)
        assert (found.width, found.height, found.mode) == (256, 256, "L")
        assert (found.is_flattened, found.levels) == (False, None)

    def test_white_on_transparency_is_flat_over_white_only(self):
        image = Image.new("LA", (SIDE, SIDE), (255, 0))
        image.paste((255, 255), (2, 2, 9, 9))
        data = saved(image, "PNG")
        assert examine(data, RGB).is_flattened
        assert not examine(data, replace(RGB, background=0)).is_flattened

    def test_one_colour_that_is_opaque_is_not_flattened(self):
        assert not examine(saved(Image.new("RGBA", (8, 8), (255, 255, 255, 255)), "PNG"), RGB).is_flattened
        assert not examine(saved(Image.new("RGB", (8, 8), (9, 9, 9)), "PNG"), RGB).is_flattened

    def test_the_part_of_the_range_that_deep_samples_fill(self):
        assert examine(png(dark_top(0, 4095), 16), RGB).levels == pytest.approx((0, 1 / 16), abs=1e-4)
        assert examine(tiff(dark_top(0, 4095).astype(np.uint16), 1, 12), RGB).levels == (0, 1)

    @pytest.mark.parametrize(
        ("data", "mode"),
        [
            (tiff(dark_top(0, 1).astype(np.uint16), 0, order=">"), "I;16"),
            (tiff(filled(1, 2, dtype=np.uint16), 1, tags={338: (2,)}), "LA"),
            (tiff(dark_top(0, 1).astype(np.float32), 1), "I"),
            (tiff(filled(1, 2, 3), 2), "RGB"),
        ],
    )
    def test_mode(self, data, mode):
        assert stored_mode(data) == mode


class TestEarlierBundles:
    """A spec that does not name these fields gives the pixels that it gave, right or wrong."""

    BEFORE = ImageSpec(channels=1, resize=SIDE, crop=SIDE)

    def test_the_defaults(self):
        assert from_dict(ImageSpec, {"kind": "image", "channels": 1, "resize": SIDE, "crop": SIDE}) == self.BEFORE
        fields = (self.BEFORE.reading, self.BEFORE.window, self.BEFORE.fit, self.BEFORE.profile)
        assert fields == ("pillow", None, "crop", "ignore")

    def test_a_new_spec_survives_the_file(self):
        spec = replace(GREY, window=(-1.5, 4095.0), fit="pad", profile="srgb")
        assert from_dict(ImageSpec, to_dict(spec)) == spec

    @pytest.mark.parametrize(("name", "value"), [("reading", "mode"), ("fit", "stretch"), ("profile", "p3")])
    def test_other_values_are_refused(self, name, value):
        with pytest.raises(SchemaError, match=name):
            from_dict(ImageSpec, {**to_dict(GREY), name: value})

    @pytest.mark.parametrize("field", [{"window": (0.0, 1.0)}, {"profile": "srgb"}])
    def test_what_pillow_reads_has_neither_window_nor_profile(self, field):
        with pytest.raises(ValueError, match="needs reading 'file'"):
            replace(self.BEFORE, **field)

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (bmp32(filled(*RED, 0)), (255, 255)),
            (tiff(filled(*RED, 0), 2), (255, 255)),
            (tiff(dark_top(0, 0xFFF).astype(np.uint16), 1, 12), (0, 0xF)),
            (tiff(dark_top(0, 0xFFFF).astype(np.uint16), 0), (0, 255)),
            (png(dark_top(4, 5), 16, before=chunk(b"tRNS", struct.pack(">H", 4))), (0, 0)),
        ],
    )
    def test_pixels(self, data, expected):
        assert grey(data, self.BEFORE) == expected
        assert grey(data, replace(self.BEFORE, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)) == expected

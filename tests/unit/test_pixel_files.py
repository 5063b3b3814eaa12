"""Which files are opened: metadata refuses none, missing ends neither, and what is refused is called by its name."""

import io
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.image.decode import decode, load, open_image
from marquee.handlers.inputs.image.spec import ImageSpec
from tests.unit.picture_files import bmp32, chunk, dark_top, png, tiff

PILLOW = ImageSpec(channels=3, resize=32, crop=32, mean=(0.0,) * 3, std=(1.0,) * 3)
FILE = replace(PILLOW, reading="file")
BOTH = pytest.mark.parametrize("spec", [PILLOW, FILE], ids=["pillow", "file"])
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def refused(data: bytes, spec: ImageSpec = FILE) -> InputError:
    with pytest.raises(InputError) as caught:
        load(data, spec)
    assert caught.value.status == 400
    return caught.value


class TestPngMetadata:
    PIXELS = np.asarray(photo())

    @pytest.mark.parametrize(
        "metadata",
        [
            chunk(b"tEXt", b"Comment\0hello", checksum_wrong=True),
            chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (3 << 20))),
            chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"a" * (3 << 20))),
            chunk(b"zTXt", b"Comment\0\7nothing known"),
            chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"a" * (3 << 20))),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"a" * (3 << 20))),
            chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * (3 << 20))),
            chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * 99), checksum_wrong=True),
            chunk(b"iCCP", b"profile\0\5unknown"),
            chunk(b"tEXt", b"transparency\0white"),
            chunk(b"tEXt", b"interlace\0yes"),
            chunk(b"tEXt", b"bbox\0no"),
            chunk(b"gAMA", b"\0"),
            chunk(b"pHYs", b"\0\0"),
            chunk(b"cHRM", b""),
            chunk(b"sRGB", b""),
            chunk(b"tIME", b"\0", checksum_wrong=True),
            chunk(b"eXIf", b"MM\0*nonsense", checksum_wrong=True),
            chunk(b"prVt", b"private", checksum_wrong=True),
            b"".join(chunk(b"zTXt", b"%d\0\0" % i + zlib.compress(b"a" * 1_000_000)) for i in range(70)),
        ],
    )
    @pytest.mark.parametrize("place", ["before", "after"])
    @BOTH
    def test_it_decides_no_pixel(self, spec, place, metadata):
        assert np.array_equal(np.asarray(decode(png(self.PIXELS, **{place: metadata}), spec)), self.PIXELS)

    @BOTH
    def test_a_damaged_chunk_that_decides_pixels_is_an_error(self, spec):
        key = struct.pack(">HHH", 1, 2, 3)
        assert refused(png(self.PIXELS, before=chunk(b"tRNS", key, checksum_wrong=True)), spec).code == "not_an_image"
        whole = png(self.PIXELS)
        assert refused(whole[:29] + b"\0" + whole[30:], spec).code == "not_an_image"  # the checksum of its header

    @BOTH
    @pytest.mark.parametrize("how", ["exif", "xmp", "text"])
    def test_the_orientation_stays(self, spec, how):
        turned = {"exif": Image.Exif(), "xmp": None, "text": None}[how]
        information = PngImagePlugin.PngInfo()
        if how == "exif":
            turned[0x0112] = 6
        elif how == "xmp":
            information.add_itxt("XML:com.adobe.xmp", '<rdf tiff:Orientation="6"/>', zip=True)
        else:
            exif = Image.Exif()
            exif[0x0112] = 6
            content = exif.tobytes()
            information.add_text("Raw profile type exif", f"\nexif\n{len(content):8}\n{content.hex()}\n", zip=True)
        options = {"exif": turned} if turned else {"pnginfo": information}
        assert decode(encoded(photo(), "PNG", **options), spec).size == (48, 64)

    @BOTH
    def test_a_long_text_is_not_unpacked(self, spec):
        """20 MB of text in 20 kB: what is dropped is never inflated."""
        data = png(self.PIXELS, before=chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"a" * 20_000_000)))
        assert len(data) < 60_000
        assert np.array_equal(np.asarray(decode(data, spec)), self.PIXELS)

    @BOTH
    def test_an_animation_shows_its_first_frame(self, spec):
        frames = [photo(), photo().transpose(Image.Transpose.ROTATE_180)]
        data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
        assert np.array_equal(np.asarray(decode(data, spec)), self.PIXELS)

    @BOTH
    @pytest.mark.parametrize("bits", [8, 16])
    def test_an_interlaced_file(self, spec, bits):
        pixels = self.PIXELS.astype(np.uint32) * (257 if bits == 16 else 1)
        data = png(pixels, bits, before=chunk(b"tEXt", b"Comment\0hello", checksum_wrong=True), interlaced=True)
        assert np.array_equal(np.asarray(decode(data, spec)), self.PIXELS)
        if spec is FILE:
            key = struct.pack(">HHH", *pixels[0, 0])
            clear = decode(png(pixels, bits, before=chunk(b"tRNS", key), interlaced=True), replace(spec, background=1))
            assert clear.getpixel((0, 0)) == (1, 1, 1)
            assert clear.getpixel((9, 9)) == tuple(self.PIXELS[9, 9])

    def test_truncated_pixels_are_still_an_error(self):
        data = png(NOISE, before=chunk(b"tEXt", b"Comment\0hello", checksum_wrong=True))
        assert refused(data[: len(data) // 2]).code == "corrupt_image"


class TestJpegWithoutEnd:
    KINDS = pytest.mark.parametrize(
        "options",
        [
            {},
            {"progressive": True},
            {"subsampling": 0},
            {"subsampling": 2, "quality": 40},
            {"restart_marker_blocks": 3},
            {"restart_marker_rows": 1},
            {"optimize": True},
        ],
        ids=str,
    )

    @KINDS
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @BOTH
    def test_with_all_its_rows_it_is_answered(self, spec, mode, options):
        data = encoded(photo().convert(mode), "JPEG", **{"quality": 90, **options})
        assert data.endswith(b"\xff\xd9")
        expected = np.asarray(decode(data, spec))
        for end in (-2, -1):
            assert np.array_equal(np.asarray(decode(data[:end], spec)), expected)
        assert np.array_equal(np.asarray(decode(data[:-2] + b"\0" * 500, spec)), expected)

    @KINDS
    def test_decoded_at_a_fraction_of_its_size(self, options):
        spec = replace(FILE, decode="scaled")
        data = encoded(photo(640, 512), "JPEG", **{"quality": 90, **options})
        assert decode(data[:-2], spec).size == (80, 64)
        assert np.array_equal(load(data[:-2], spec), load(data, spec))

    @KINDS
    @pytest.mark.parametrize("pixels", [NOISE, np.asarray(photo())], ids=["noise", "smooth"])
    def test_with_fewer_it_never_is(self, pixels, options):
        """Wherever it is cut: an error, or the pixels of the whole file."""
        data = encoded(Image.fromarray(pixels), "JPEG", **{"quality": 90, **options})
        expected, answered = np.asarray(decode(data, FILE)), 0
        for length in [*range(len(data) - 60, len(data)), *range(len(data) // 3, len(data), 97)]:
            try:
                found = np.asarray(decode(data[:length], FILE))
            except InputError as error:
                assert error.code in ("corrupt_image", "not_an_image")
            else:
                assert np.array_equal(found, expected), length
                answered += 1
        assert 2 <= answered < 12

    def test_cut_between_two_scans(self):
        """Each scan of a progressive file has all rows, in a precision that the next one adds to."""
        data = encoded(Image.fromarray(NOISE), "JPEG", progressive=True, quality=95)
        starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xc4"][2:]
        assert len(starts) > 3
        for start in starts:
            assert refused(data[:start]).code == "corrupt_image"

    def test_cut_between_two_restart_intervals(self):
        data = encoded(Image.fromarray(np.tile(NOISE, (2, 2, 1))), "JPEG", restart_marker_blocks=1)
        marks = [i for i in range(len(data) - 1) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
        assert len(marks) > 40
        for mark in marks:
            assert refused(data[:mark]).code == "corrupt_image"
            assert refused(data[: mark + 2]).code == "corrupt_image"


class TestJpegMetadata:
    @pytest.mark.parametrize(
        "segment",
        [
            b"\xff\xed" + struct.pack(">H", 22) + b"Photoshop 3.0\x008BIM\x04\x04",
            b"\xff\xe2" + struct.pack(">H", 14) + b"ICC_PROFILE\0",
            b"\xff\xe2" + struct.pack(">H", 20) + b"MPF\0nothing known",
            b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0MM\0*\0\0\0\xff",
            b"\xff\xfe" + struct.pack(">H", 60_000) + b"c" * 59_998,
        ],
    )
    @BOTH
    def test_a_damaged_segment_decides_no_pixel(self, spec, segment):
        data = encoded(photo(), "JPEG")
        assert np.array_equal(load(data[:2] + segment + data[2:], spec), load(data, spec))

    @BOTH
    def test_the_orientation_stays(self, spec):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(photo(), "JPEG", exif=exif)
        damaged = b"\xff\xed" + struct.pack(">H", 22) + b"Photoshop 3.0\x008BIM\x04\x04"
        assert decode(data[:2] + damaged + data[2:], spec).size == (48, 64)


def frame(marker: int, bits: int) -> bytes:
    header = struct.pack(">BHHB", bits, 8, 8, 1) + b"\1\x11\0"
    return b"\xff\xd8" + struct.pack(">BBH", 0xFF, marker, len(header) + 2) + header + b"\xff\xda\0\2"


class TestRefusals:
    """The code says that nothing was opened; the message says what came and what to send."""

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000; send JPEG or PNG"),
            (b"\xff\x4f\xff\x51" + bytes(20), "JPEG 2000"),
            (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL"),
            (b"\xff\x0a" + bytes(20), "JPEG XL"),
            (b"II\xbc\x01" + bytes(20), "JPEG XR"),
            (b"%PDF-1.4 ...", "a PDF document; send its page as PNG"),
            (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg/>", "SVG"),
            (b"<!DOCTYPE html><html>", "a web page"),
            (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(20), "a video; send a frame"),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(20), "a video"),
            (b"\x1a\x45\xdf\xa3" + bytes(20), "WebM, a video"),
            (b"RIFF\0\0\0\0AVI LIST", "AVI, a video"),
            (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file"),
            (bytes(128) + b"DICM" + bytes(20), "DICOM"),
            (b"8BPS\0\1" + bytes(20), "Photoshop"),
            (b"\0\0\1\0\1\0" + bytes(20), "ICO"),
            (b"P6\n2 2\n255\n" + bytes(12), "PNM"),
            (b"PK\x03\x04" + bytes(20), "ZIP"),
            (b"\x1f\x8b\x08" + bytes(20), "gzip"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"just text", "not an image of a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF)"),
        ],
    )
    @BOTH
    def test_what_came(self, spec, data, words):
        error = refused(data, spec)
        assert error.code == "not_an_image"
        assert words in error.message

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (frame(0xC1, 12), "12-bit JPEG"),
            (frame(0xC3, 16), "lossless 16-bit JPEG"),
            (frame(0xF7, 8), "JPEG-LS"),
        ],
    )
    @BOTH
    def test_kinds_of_jpeg(self, spec, data, words):
        error = refused(data, spec)
        assert error.code == "unsupported_image"
        assert words in error.message

    @BOTH
    def test_a_kind_of_tiff(self, spec):
        error = refused(tiff(np.zeros((8, 8, 4), np.uint8), 1), spec)
        assert (error.code, error.message.partition(";")[0]) == ("unsupported_image", "TIFF with 4 grey bands")

    def test_a_kind_that_earlier_bundles_do_not_read(self):
        data = tiff(dark_top(0, 9).astype(np.uint16), 0, order=">")
        assert load(data, FILE).shape == (32, 32, 3)
        assert (
            "16-bit grey samples, which this model, of an earlier version, does not read"
            in refused(data, PILLOW).message
        )

    @BOTH
    def test_a_kind_of_bmp(self, spec):
        data = bytearray(bmp32(np.zeros((8, 8, 4))))
        data[54:58] = struct.pack("<I", 0x00FF0001)  # the mask of red
        error = refused(bytes(data), spec)
        assert (error.code, error.message.partition(";")[0]) == (
            "unsupported_image",
            "Unsupported BMP bitfields layout",
        )

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
    def test_a_damaged_header(self, format):
        error = refused(encoded(photo(), format)[:16])
        assert error.code == "not_an_image"
        assert f"begins as {format}" in error.message

    @pytest.mark.parametrize("name", ["heic", "heix", "mif1"])
    def test_heic_where_nothing_reads_it(self, name):
        """In a process of its own, where the package cannot be imported whether it is installed or not."""
        data = b"\0\0\0\x18ftyp" + name.encode() + b"\0\0\0\0mif1heic" + bytes(60)
        program = (
            "import sys; sys.modules['pillow_heif'] = None\n"
            "from marquee.handlers.core.errors import InputError\n"
            "from marquee.handlers.inputs.image.decode import load\n"
            "from marquee.handlers.inputs.image.spec import ImageSpec\n"
            f"try: load({data!r}, ImageSpec(channels=1, resize=8, crop=8))\n"
            "except InputError as error: print(error.code, error.message)"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.startswith("not_an_image HEIC, the iPhone's default; send JPEG")
        assert "marquee[heic]" in result.stdout


class TestFurtherFormats:
    @pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
    @pytest.mark.parametrize("spec", [PILLOW, FILE, replace(FILE, decode="scaled")])
    def test_avif(self, spec):
        data = encoded(photo(), "AVIF", quality=95)
        assert open_image(data, spec).size == (64, 48)
        assert np.abs(load(data, spec).astype(int) - load(encoded(photo(), "PNG"), spec)).max() < 16
        with pytest.raises(InputError, match="64 x 48") as caught:
            decode(data, replace(spec, max_pixels=64 * 48 - 1))
        assert caught.value.code == "too_many_pixels"
        assert refused(data[:-200], spec).code in ("not_an_image", "corrupt_image")

    @pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
    def test_avif_is_turned_upright_and_composed(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        assert decode(encoded(photo(), "AVIF", exif=exif), FILE).size == (48, 64)
        clear = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
        assert decode(encoded(clear, "AVIF"), replace(FILE, background=9)).getpixel((3, 3)) == (9, 9, 9)

    @pytest.mark.parametrize("spec", [PILLOW, FILE, replace(FILE, decode="scaled")])
    def test_heic(self, spec):
        heif = pytest.importorskip("pillow_heif")
        stream = io.BytesIO()
        heif.from_pillow(photo(640, 480)).save(stream, quality=95)
        data = stream.getvalue()
        decoded = decode(data, spec)
        assert decoded.size == (640, 480)  # and not a thumbnail
        assert np.abs(np.asarray(decoded).astype(int) - np.asarray(photo(640, 480))).mean() < 4
        with pytest.raises(InputError) as caught:
            decode(data, replace(spec, max_pixels=1000))
        assert caught.value.code == "too_many_pixels"
        assert refused(data[: len(data) // 2], spec).code in ("not_an_image", "corrupt_image")


def test_random_damage_is_always_an_input_error():
    rng = np.random.default_rng(2)
    deep = dark_top(0, 4000).astype(np.uint16)
    files = [
        tiff(deep, 0, 12),
        tiff(deep, 1, order=">", deflate=True),
        tiff(np.stack([deep] * 4, axis=-1), 2, tags={338: (2,)}),
        png(deep, 16, before=chunk(b"tRNS", b"\0\0") + chunk(b"tEXt", b"a\0b")),
        png(np.stack([deep] * 3, axis=-1), 16, before=chunk(b"tRNS", bytes(6))),
        encoded(photo(), "AVIF"),
        encoded(photo(), "JPEG", progressive=True)[:-2],
    ]
    for spec in (replace(FILE, window=(0.0, 4000.0), profile="srgb"), PILLOW):
        for data in files:
            for _ in range(100):
                damaged = np.frombuffer(data, np.uint8).copy()
                damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
                try:
                    assert load(damaged.tobytes(), spec).shape == (32, 32, 3)
                except InputError as error:
                    assert error.status in (400, 413)

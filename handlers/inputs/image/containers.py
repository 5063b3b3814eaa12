"""What a file is, by its first bytes, and what to do where it is not opened."""

import re

JPEG, PNG, TIFF, AVIF, HEIC = "JPEG", "PNG", "TIFF", "AVIF", "HEIC"

HEIC_ADVICE = (
    "HEIC, the iPhone's default; send JPEG (on the iPhone: Settings, Camera, Formats, Most Compatible), or install "
    "marquee[heic] where the model is trained and served"
)

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", JPEG),
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"II+\0", TIFF),
    (0, b"MM\0+", TIFF),
    (0, b"MM*\0", TIFF),  # a header of the wrong byte order, which Pillow takes too
    (0, b"II\0*", TIFF),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WEBP"),
)
"""Offset, bytes, name: formats that are opened, but for JPEG XR, which begins as a TIFF does."""

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000; send JPEG or PNG"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000; send JPEG or PNG"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL; send JPEG or PNG"),
    (0, b"\xff\x0a", "JPEG XL; send JPEG or PNG"),
    (0, b"%PDF-", "a PDF document; send its page as PNG or JPEG"),
    (0, b"%!PS", "PostScript; send it as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript; send it as PNG"),
    (0, b"8BPS", "a Photoshop document (PSD); export it as PNG or JPEG"),
    (0, b"gimp xcf", "a GIMP document (XCF); export it as PNG or JPEG"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM, a video; send a frame as JPEG or PNG"),
    (8, b"AVI ", "AVI, a video; send a frame as JPEG or PNG"),
    (8, b"WAVE", "WAV, a sound; send an image"),
    (0, b"\x00\x00\x01\xba", "MPEG, a video; send a frame as JPEG or PNG"),
    (0, b"\x00\x00\x01\xb3", "MPEG, a video; send a frame as JPEG or PNG"),
    (0, b"FLV\x01", "FLV, a video; send a frame as JPEG or PNG"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV, a video; send a frame as JPEG or PNG"),
    (0, b"OggS", "Ogg, a video or a sound; send a frame as JPEG or PNG"),
    (4, b"moov", "QuickTime, a video; send a frame as JPEG or PNG"),
    (4, b"mdat", "QuickTime, a video; send a frame as JPEG or PNG"),
    (128, b"DICM", "DICOM; export the image as PNG"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF); develop it and send JPEG"),
    (0, b"FOVb", "a camera's raw file (X3F); develop it and send JPEG"),
    (0, b"IIRO", "a camera's raw file (ORF); develop it and send JPEG"),
    (0, b"IIU\0", "a camera's raw file (RW2); develop it and send JPEG"),
    (0, b"v/1\x01", "OpenEXR; send PNG or TIFF"),
    (0, b"#?RADIANCE", "Radiance HDR; send PNG or TIFF"),
    (0, b"\x00\x00\x01\x00", "a Windows icon (ICO); send PNG"),
    (0, b"SIMPLE  =", "FITS; send PNG or TIFF"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5; export the image as PNG or TIFF"),
    (0, b"\x93NUMPY", "an array of NumPy; save it as PNG"),
    (0, b"qoif", "QOI; send PNG"),
    (0, b"BPG\xfb", "BPG; send PNG or JPEG"),
    (0, b"DDS ", "a DirectDraw texture (DDS); send PNG"),
    (0, b"PK\x03\x04", "a ZIP archive; send the images in it one by one"),
    (0, b"Rar!", "a RAR archive; send the images in it one by one"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; send the images in it one by one"),
    (0, b"\x1f\x8b", "gzip; send the file unpacked"),
    (0, b"BZh", "bzip2; send the file unpacked"),
    (0, b"\xfd7zXZ\0", "xz; send the file unpacked"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard; send the file unpacked"),
    (0, b"version https://git-lfs", "a pointer of Git LFS and not the file itself; run git lfs pull"),
)
_NETPBM = re.compile(rb"P[1-7]\s")
_MARKUP = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:\?xml|!--|!doctype|svg|html|head|body)", re.IGNORECASE)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf", b"heif"}


def format_of(data: bytes | bytearray | memoryview) -> str | None:
    """The name of the format whose first bytes a file has; None for one that is never opened."""
    head = bytes(data[:64])
    for offset, magic, name in _MAGIC:
        if head[offset:].startswith(magic) and (name != "WEBP" or head.startswith(b"RIFF")):
            return None if name == "JPEG XR" else name
    brands = _brands(head)
    if brands & _AVIF_BRANDS:
        return AVIF
    return HEIC if brands & (_HEIC_BRANDS | _HEIF_BRANDS) else None


def foreign(data: bytes | bytearray | memoryview) -> str | None:
    """What a file is that is never opened, and what to send in its place; None where nobody knows."""
    head = bytes(data[:4096])
    if head.startswith(b"II\xbc\x01"):
        return "JPEG XR; send JPEG or PNG"
    for offset, magic, text in _FOREIGN:
        if head[offset:].startswith(magic) and (offset != 8 or head.startswith(b"RIFF")):
            return text
    if _MARKUP.match(head):
        return _markup(head)
    if _NETPBM.match(head):
        return "PNM (PBM, PGM, PPM); send PNG"
    brands = _brands(head)
    if b"crx " in brands:
        return "a camera's raw file (CR3); develop it and send JPEG"
    return "MP4 or QuickTime, a video; send a frame as JPEG or PNG" if brands else None


def _markup(head: bytes) -> str | None:
    text = head.lower()
    if b"<svg" in text:
        return "SVG, a drawing; send it as PNG"
    if b"<html" in text or b"<!doctype html" in text:
        return "a web page and not an image, such as a download that failed; send the image itself"
    return None


def _brands(head: bytes) -> set[bytes]:
    """The brands of an ISO base media file: what may read it."""
    if head[4:8] != b"ftyp":
        return set()
    size = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, size - 3, 4)}

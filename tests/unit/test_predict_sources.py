"""What `marquee predict` finds to send: files, folders, patterns, lists, standard input."""

import io
import sys
from pathlib import Path

import pytest

from marquee.commands.predict_sources import find_sources


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with images, and a few other files, as the current one."""
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.tiff", "notes.txt", "sub/Thumbs.db", ".hidden.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    for name in (".git/e.png", "__MACOSX/._b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir()
        (tmp_path / "photos" / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: str) -> list[str]:
    return [source.name for source in find_sources(map(Path, arguments)).all]


def problems(*arguments: str) -> list[str | None]:
    return [source.problem for source in find_sources(map(Path, arguments)).all]


IMAGES = ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.webp", "photos/sub/deep/d.tiff"]


def feed(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_folder_is_its_images(here):
    sources = find_sources([Path("photos")])
    assert [source.name for source in sources.all] == IMAGES
    assert sources.left_out == 2
    assert sources.all[1].read() == b"b.jpg"


def test_a_link_that_leads_back_ends(here):
    (here / "photos" / "sub" / "again").symlink_to(here / "photos")
    assert names("photos") == IMAGES


def test_patterns(here):
    assert names("photos/*.*g") == ["photos/b.jpg"]
    assert names("photos/*.[jP]*") == ["photos/a.PNG", "photos/b.jpg"]
    assert names("photos/**/*.webp", "photos/?.jpg") == ["photos/sub/c.webp", "photos/b.jpg"]
    assert sorted(names("photos/**")) == sorted([*IMAGES, "photos/notes.txt", "photos/sub/Thumbs.db"])
    assert names("pho*") == IMAGES
    assert problems("photos/*.gif") == ["no file matches this pattern"]


def test_a_name_that_exists_is_meant_as_it_is(here):
    for name in ("[1].png", "*.png", "@list"):
        (here / name).write_bytes(b"x")
    assert names("[1].png", "*.png", "@list") == ["[1].png", "*.png", "@list"]


@pytest.mark.parametrize(
    "text", [b"photos/b.jpg\nnew.png\n", b"photos/b.jpg\r\n\r\nnew.png", b"photos/b.jpg\0new.png\0"]
)
def test_lists(here, monkeypatch, text):
    (here / "new.list").write_bytes(text)
    assert names("@new.list", "photos/a.PNG") == ["photos/b.jpg", "new.png", "photos/a.PNG"]
    for argument in ("-", "@-"):
        feed(monkeypatch, text)
        assert names(argument) == ["photos/b.jpg", "new.png"]


def test_a_name_of_a_list_is_no_pattern(here):
    (here / "files").write_text("photos/*.jpg\nwith  blanks.png\n")
    assert names("@files") == ["photos/*.jpg", "with  blanks.png"]


def test_a_name_that_is_not_utf8_stays_what_it_is(here):
    (here / "files").write_bytes(b"caf\xe9.png\n")
    (source,) = find_sources([Path("@files")]).all
    with open(b"caf\xe9.png", "wb") as stream:
        stream.write(b"content")
    assert source.read() == b"content"


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n...", b"\xff\xd8\xff\xe0", b"\x1f\x8b\x08\0", b"\x01\x02 damaged"])
def test_standard_input_is_an_image(monkeypatch, data):
    feed(monkeypatch, data)
    (source,) = find_sources([Path("-")]).all
    assert (source.name, source.read(), source.content_type) == ("-", data, "application/octet-stream")


def test_standard_input_is_json(monkeypatch):
    feed(monkeypatch, b' {"image_data": [[3]]}')
    (source,) = find_sources([Path("-")]).all
    assert (source.read(), source.content_type) == (b' {"image_data": [[3]]}', "application/json")


def test_nothing_to_send_is_told(here, monkeypatch):
    (here / "empty").mkdir()
    (here / "none").write_text("\n\n")
    feed(monkeypatch, b"")
    assert problems("empty", "@none", "-") == [
        "a folder without images",
        "a list without files",
        "a list without files",
    ]
    (source,) = find_sources([Path("@absent")]).all
    assert source.read().error == "unreadable: the list absent: No such file or directory"
    (source,) = find_sources([Path("absent.png")]).all
    assert source.read().error == "unreadable: No such file or directory"

"""Where pictures come from: a folder of picture files, webdataset tars, or a folder this data stage has written.

The order is that of the sorted names, the same every time. Pictures are listed, not read; each reads itself when asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgefusion.data.captions import FILES, Caption, Metadata, chosen, read_fields, read_text
from edgefusion.data.picture import Refused
from edgefusion.data.recipe import PictureChoice
from edgefusion.data.tars import Damage, Extent, Sample, read_extent, samples
from edgefusion.spec.errors import UserError

PICTURES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jfif", "ppm"}
PREPARED_FILE = "prepared.json"


class Raw(Protocol):
    """One picture of a source, not yet read. `position`: bytes of the source up to and with it."""

    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def position(self) -> int: ...
    def content(self) -> bytes: ...
    def caption(self, choice: PictureChoice) -> Caption: ...


@dataclass(frozen=True)
class FilePicture:
    """A picture file, with the files beside it."""

    source: Source
    path: Path
    size_bytes: int
    position: int

    @property
    def name(self) -> str:
        """The path inside the source."""
        return self.path.relative_to(self.source.folder).as_posix()

    def content(self) -> bytes:
        """Its bytes. Refused when it cannot be read."""
        return _bytes(self.path)

    def caption(self, choice: PictureChoice) -> Caption:
        """NAME.txt before NAME.json before metadata files, nearest folder first."""
        text, own = self.path.with_suffix(".txt"), self.path.with_suffix(".json")
        fields = self.source.metadata_of(self.path) | (read_fields(_bytes(own)) if own.is_file() else {})
        return chosen(read_text(_bytes(text)) if text.is_file() else None, fields, choice.caption_keys)


@dataclass(frozen=True)
class TarPicture:
    """A sample of a webdataset tar."""

    path: Path
    key: str
    members: dict[str, Extent]
    kind: str
    position: int

    @property
    def name(self) -> str:
        """The tar's name and the member's."""
        return f"{self.path.name}/{self.key}.{self.kind}"

    @property
    def size_bytes(self) -> int:
        """Of the picture."""
        return self.members[self.kind].size

    def content(self) -> bytes:
        """Its bytes. Refused when it cannot be read."""
        return self._member(self.kind)

    def caption(self, choice: PictureChoice) -> Caption:
        """KEY.txt before KEY.json."""
        fields = read_fields(self._member("json")) if "json" in self.members else {}
        text = read_text(self._member("txt")) if "txt" in self.members else None
        return chosen(text, fields, choice.caption_keys)

    def _member(self, kind: str) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise Refused("damaged", f"the tar cannot be opened: {error.strerror}") from error
        try:
            return read_extent(descriptor, self.members[kind])
        except OSError as error:
            raise Refused("damaged", f"cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)


@dataclass
class Source:
    """The pictures below a folder, or in one tar. Iterating gives pictures, and what is damaged between them.

    Raises:
        UserError: there is nothing here, or nothing that is a picture or a tar.
    """

    folder: Path
    files: list[tuple[Path, int]] = field(init=False)
    _metadata: dict[Path, Metadata | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.folder.exists():
            raise UserError("there is no such folder.", where=str(self.folder), remedy="Give a folder of pictures.")
        if self.folder.is_file():
            found, self.folder = [self.folder], self.folder.parent
        elif (self.folder / PREPARED_FILE).is_file():
            found = sorted(self.folder.glob("shard-*.tar"))  # not its sample sheets
        else:
            found = sorted(_walk(self.folder))
        self.files = [(path, path.stat().st_size) for path in found]
        if not self.files:
            raise UserError(
                "holds no pictures and no tars.",
                where=str(self.folder),
                remedy=f"Pictures are {', '.join(sorted(PICTURES))}; shards are uncompressed .tar.",
            )

    @property
    def name(self) -> str:
        """For records: never a path of this machine."""
        return self.folder.resolve().name

    @property
    def total_bytes(self) -> int:
        """Of all pictures and tars."""
        return sum(size for _, size in self.files)

    def __iter__(self) -> Iterator[Raw | Damage]:
        before = 0
        for path, size in self.files:
            if path.suffix.lower() == ".tar":
                yield from _in_tar(path, before)
            else:
                yield FilePicture(self, path, size, before + size)
            before += size

    def metadata_of(self, path: Path) -> dict[str, object]:
        """What metadata files of the picture's folder and those above it say of it; the nearest wins."""
        fields: dict[str, object] = {}
        for folder in [path.parent, *path.parent.parents]:
            if (metadata := self._read_metadata(folder)) is not None:
                fields = metadata.get(path.relative_to(folder).as_posix()) | fields
            if folder == self.folder:
                break
        return fields

    def _read_metadata(self, folder: Path) -> Metadata | None:
        if folder not in self._metadata:
            there = [folder / name for name in FILES if (folder / name).is_file()]
            self._metadata[folder] = Metadata(there[0]) if there else None
        return self._metadata[folder]


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = name.rpartition(".")[2].lower()
            if not name.startswith(".") and (suffix in PICTURES or suffix == "tar"):
                yield Path(where, name)


def _in_tar(path: Path, before: int) -> Iterator[Raw | Damage]:
    for row in samples(path):
        if isinstance(row, Damage):
            yield row
            continue
        kind = next((name for name in row.members if name in PICTURES), None)
        if kind is None:
            yield Damage(f"{path.name}/{row.key}", f"no picture in it, only {', '.join(row.members)}")
            continue
        yield TarPicture(path, row.key, row.members, kind, before + _end(row))


def _end(sample: Sample) -> int:
    return max(extent.offset + extent.size for extent in sample.members.values())


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused("damaged", f"cannot be read: {error.strerror}") from error

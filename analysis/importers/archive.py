"""The members of an Inspect .eval file: a zip whose members are zstd frames, which Python 3.11's zipfile cannot read.

Knows nothing of what the members say. pyarrow brings zstd along, so no other library is needed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import BadZipFile, ZipFile

import pyarrow as pa

from toolkit.errors import BadInput

ZSTD = 93
"""The zip specification's number for it (APPNOTE 4.4.5)."""
LARGEST = 1 << 30
"""Bytes of the largest member that is read: a sample is a few MB, a file that says more is damaged or a trap."""
_LOCAL = struct.Struct("<4s22xHH")
"""Of a local file header: signature, length of the name, length of the extra field."""


class Archive:
    """One .eval file, open for reading. Use as a context manager. Everything that is wrong with it is a BadInput."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = ZipFile(path)
        except (BadZipFile, OSError, struct.error, NotImplementedError, ValueError) as error:
            raise BadInput(f"{path.name} is not an .eval log: {error}") from error
        self._raw = path.open("rb")
        self._members = {info.filename: info for info in self._zip.infolist()}  # of two with one name the later counts

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The members, in the order of the file's directory."""
        return list(self._members)

    def bytes(self, name: str) -> bytes:
        """One member, unpacked and checked against its checksum."""
        info = self._members[name]
        if info.file_size > LARGEST:
            raise BadInput(f"{self.path.name}: {name} says that it is {info.file_size:,} bytes long")
        try:
            if info.compress_type != ZSTD:
                return self._zip.read(info)
            self._raw.seek(info.header_offset)
            signature, name_length, extra_length = _LOCAL.unpack(self._raw.read(_LOCAL.size))
            if signature != b"PK\x03\x04":
                raise BadZipFile("no local header where the directory has one")
            self._raw.seek(name_length + extra_length, 1)
            packed = self._raw.read(info.compress_size)
            whole = pa.Codec("zstd").decompress(packed, decompressed_size=info.file_size, asbytes=True)
            if zlib.crc32(whole) != info.CRC:
                raise BadZipFile("its checksum is wrong")
        except (BadZipFile, OSError, EOFError, struct.error, zlib.error, RuntimeError, ValueError) as error:
            raise BadInput(f"{self.path.name}: {name} is damaged ({error})") from error
        return bytes(whole)

    def json(self, name: str, wanted: Collection[str] | None = None) -> dict[str, Any]:
        """A member that is a JSON object; `wanted` names the keys to read, and reading stops when all are there.

        The events of a sample are most of its bytes and come last: leaving them out is most of the speed.
        """
        try:
            text = self.bytes(name).decode("utf-8")
            value = json.loads(text) if wanted is None else _some(text, set(wanted))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{self.path.name}: {name} is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise BadInput(f"{self.path.name}: {name} should hold an object; it holds a {type(value).__name__}")
        return value


def _some(text: str, wanted: set[str]) -> dict[str, Any]:
    """The wanted keys of the object that `text` is. Raises ValueError where it stops being one."""
    decode, found, at = json.JSONDecoder().raw_decode, dict[str, Any](), _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("it does not begin with an object")
    at = _skip(text, at + 1)
    while wanted - found.keys() and text[at : at + 1] != "}":
        key, at = decode(text, at)
        at = _skip(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise ValueError(f"no key at character {at}")
        value, at = decode(text, _skip(text, at + 1))
        if key in wanted:
            found[key] = value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise ValueError(f"neither comma nor end at character {at}")
    return found


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\n", "\r") and at < len(text):
        at += 1
    return at

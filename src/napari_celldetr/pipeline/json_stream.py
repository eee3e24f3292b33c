"""The members of a long list in a JSON file, decoded one at a time from a bounded buffer.

Nothing of a hostile file is believed: text before and after the list, each member, and their
nesting are bounded, and numbers are finite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from napari_celldetr.core.errors import CellDETRError, ExportError

CHUNK = 1 << 20
MAX_MEMBER_CHARS = 8 << 20
MAX_HEAD_CHARS = 16 << 20
MAX_VERTICES = 100_000


class JsonStream:
    """The list called `name` in the object that a file holds.

    `kind` says in messages what the file should be. Call `head`, then `members`, then `tail`.
    """

    _BETWEEN = re.compile(r"[\s,]*")

    def __init__(self, file: IO[bytes], name: str, kind: str) -> None:
        self._file = file
        self._list = re.compile(rf'"{name}"\s*:\s*\[')
        self.kind = kind
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder(parse_constant=self._refuse_constant)

    def head(self) -> dict[str, Any]:
        """Everything before the first member; nothing where the file is a bare list."""
        self._fill(CHUNK)
        if self._text.lstrip("\ufeff \t\r\n").startswith("["):
            self._at = self._text.index("[") + 1
            return {}
        while (found := self._list.search(self._text)) is None:
            if self._ended or len(self._text) > MAX_HEAD_CHARS:
                raise self.refused("no such list")
            self._fill(CHUNK)
        head = self._object(self._text[: found.end()].lstrip("\ufeff") + "]}")
        self._at = found.end()
        return head

    def members(self) -> Iterator[dict[str, Any]]:
        """Each member; refuses one that is too large, too deep or not an object."""
        while True:
            between = self._BETWEEN.match(self._text, self._at)
            self._at = self._at if between is None else between.end()
            if self._at == len(self._text):
                if self._ended:
                    raise self.refused("the end of the file inside the list")
                self._fill(CHUNK)
            elif self._text[self._at] == "]":
                self._at += 1
                return
            else:
                yield self._member()

    def tail(self) -> dict[str, Any]:
        """Everything after the last member."""
        while not self._ended:
            if len(self._text) - self._at > MAX_HEAD_CHARS:
                raise self.refused("too much after the list")
            self._fill(CHUNK)
        return self._object("{" + self._text[self._at :].lstrip(", \t\r\n"))

    def refused(self, found: str) -> CellDETRError:
        """The error for a file that is not what it should be."""
        return ExportError(
            "The file cannot be read as cells.",
            expected=self.kind,
            found=found,
            remedy="export the cells again, e.g. as .parquet",
        )

    def _member(self) -> dict[str, Any]:
        size = CHUNK
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                # Wrong JSON fails at once; cut-off JSON fails at its end and needs more text.
                if self._ended or len(self._text) - self._at > MAX_MEMBER_CHARS:
                    raise self.refused(str(error)[:100]) from error
                # All that is left belongs to this one member: count before parsing again.
                if self._text.count("[", self._at) > MAX_VERTICES:
                    raise self.refused(f"a member with over {MAX_VERTICES} vertices") from error
                self._fill(size)
                size *= 2
                continue
            if not isinstance(value, dict):
                raise self.refused("something else in the list")
            if end - self._at > MAX_MEMBER_CHARS:
                raise self.refused(f"a member of {end - self._at} characters")
            self._at = end
            return value

    def _object(self, text: str) -> dict[str, Any]:
        try:
            found = self._parse(text, 0)[0]
        except json.JSONDecodeError as error:
            raise self.refused(str(error)[:100]) from error
        if not isinstance(found, dict):
            raise self.refused("another kind of JSON")
        return found

    def _parse(self, text: str, at: int) -> tuple[Any, int]:
        try:
            return self._decoder.raw_decode(text, at)
        except RecursionError as error:
            raise self.refused("nesting deeper than any cell has") from error

    def _fill(self, size: int) -> None:
        self._text, self._at = self._text[self._at :], 0
        more = self._file.read(size)
        # A multi-byte character may be cut; three more bytes at most complete it.
        while more and not self._ended:
            try:
                self._text += more.decode("utf-8")
                return
            except UnicodeDecodeError as error:
                extra = self._file.read(1) if error.end == len(more) else b""
                if not extra:
                    raise self.refused("bytes that are not UTF-8") from error
                more += extra
        self._ended = True

    def _refuse_constant(self, text: str) -> None:
        raise self.refused(f"{text}, not a finite number")

"""Reads the one file of a ``multipart/form-data`` body as a stream (RFC 7578), within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from pilothouse.blobs.errors import UploadInvalid

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

MEDIA = "multipart/form-data"
FILE = "file"
FIELDS = frozenset({"name", "sha256"})
"""The fields beside the file, which may come before or after it."""
OVERHEAD = 64 << 10
"""Bytes of a body beside its file."""
MAX_FIELD = 2000
MAX_FORM_PARTS = 8
MAX_HEADERS, MAX_HEADER = 8, 4 << 10
SLICE = 8 << 10
"""Bytes that are parsed at once: in the worst case, where a boundary seems to begin every few bytes, for 1 ms."""


class Form:
    """One body. :meth:`content` gives the bytes of the field ``file``; when it has ended, ``filename`` is the name
    that the client gave it (may be empty), ``fields`` are the others. Raises :class:`UploadInvalid`."""

    def __init__(self, content_type: str) -> None:
        from python_multipart.multipart import parse_options_header

        media, options = parse_options_header(content_type)
        self.filename = ""
        self.fields: dict[str, str] = {}
        self._boundary = options.get(b"boundary", b"")
        if media.decode("latin-1").lower() != MEDIA or not self._boundary:
            raise UploadInvalid(f"Content-Type is {MEDIA} with a boundary")
        self._parts = 0
        self._files = 0
        self._ended = False
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._name = ""
        self._field = b""
        self._ready: list[bytes] = []

    async def content(
        self, body: AsyncIterator[bytes], turn: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[bytes]:
        """The file, in pieces. ``turn``: waits until the next bytes may be parsed."""
        from python_multipart.exceptions import FormParserError

        parser = self._parser()
        try:
            async for chunk in body:
                for start in range(0, len(chunk), SLICE):
                    await turn()
                    parser.write(chunk[start : start + SLICE])
                ready, self._ready = self._ready, []
                if ready:
                    yield b"".join(ready)
        except FormParserError:
            raise UploadInvalid(f"the body is not valid {MEDIA}") from None
        if not self._ended:
            raise UploadInvalid(f"the body ends before its last boundary, or is not {MEDIA}")
        if not self._files:
            raise UploadInvalid(f"the body has no field {FILE!r}")

    def _parser(self) -> MultipartParser:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser

        try:
            return MultipartParser(
                self._boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER,
            )
        except FormParserError:
            raise UploadInvalid("the boundary of the body is too long") from None

    # -- called by the parser ---------------------------------------------------------------------------

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FORM_PARTS:
            raise UploadInvalid(f"the body has more than {MAX_FORM_PARTS} parts")
        self._header = self._value = self._disposition = self._field = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        from python_multipart.multipart import parse_options_header

        kind, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""))
        if kind.lower() != b"form-data" or not self._name:
            raise UploadInvalid("a part of the body has no Content-Disposition: form-data with a name")
        if self._name == FILE:
            self._files += 1
            if self._files > 1:
                raise UploadInvalid(f"the body has more than one field {FILE!r}")
            self.filename = _text(options.get(b"filename", b""))
        elif self._name not in FIELDS or self._name in self.fields:
            raise UploadInvalid(
                f"the field {self._name[:64]!r} is not known, or is there twice; known are file, name, sha256"
            )

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._ready.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD:
            raise UploadInvalid(f"the field {self._name!r} has more than {MAX_FIELD} bytes")

    def _on_part_end(self) -> None:
        if self._name != FILE:
            self.fields[self._name] = _text(self._field)

    def _on_end(self) -> None:
        self._ended = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UploadInvalid("a name or field of the body is not UTF-8") from None

"""Answers with the content of a stored file, or a range of it (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse


class BadRange(Exception):
    """The range is outside of the content."""


_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")


def read_range(header: str, size: int) -> tuple[int, int] | None:
    """``(start, stop)`` of a Range header (RFC 9110); ``None`` to send everything: there is no header, or one that
    is not a single range of bytes. Raises :class:`BadRange`."""
    found = _RANGE.fullmatch(header)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last so many bytes
        start, stop = max(0, size - int(found[2])), size
        if int(found[2]) == 0 or size == 0:
            raise BadRange
        return start, stop
    start = int(found[1])
    stop = min(size, int(found[2]) + 1) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise BadRange
    return start, stop


async def sent(
    request: Request,
    content: Callable[[int, int], AsyncIterator[bytes]],
    *,
    size: int,
    sha256: str,
    file_name: str,
    media: str = "application/octet-stream",
) -> Response:
    """The bytes that ``content(start, stop)`` gives, as an attachment: all of them, or the range that is asked for
    (206; 416 for one outside of it). What fails before the first byte is raised."""
    etag = f'"{sha256}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(file_name, safe='')}",
    }
    asked = request.headers.get("range", "")
    if asked and request.headers.get("if-range", etag) != etag:
        asked = ""
    try:
        part = read_range(asked, size)
    except BadRange:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    start, stop = part or (0, size)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    body = await _begun(content(start, stop))
    return StreamingResponse(body, 206 if part else 200, headers, media)


async def _begun(data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, once its first piece is there: what fails until then is answered with an error."""
    first = await anext(data, b"")

    async def everything() -> AsyncIterator[bytes]:
        yield first
        async for piece in data:
            yield piece

    return everything()

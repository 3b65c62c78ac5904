"""What every codec of a stream of bytes must stand: any pieces, several frames in one, garbage before and between."""

from collections.abc import Callable, Sequence
from typing import TypeVar

F = TypeVar("F")
Scan = Callable[[bytes], tuple[int, F | None]]


def feed(scan: Scan[F], pieces: Sequence[bytes]) -> tuple[list[F], bytes]:
    """Return the frames found in pieces that come one after the other, and what is kept at the end."""
    buffer, found = b"", []
    for piece in pieces:
        buffer += piece
        while True:
            consumed, frame = scan(buffer)
            assert 0 <= consumed <= len(buffer)
            buffer = buffer[consumed:]
            if frame is None:
                break
            assert consumed > 0
            found.append(frame)
    return found, buffer


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return data cut at places (modulo its length)."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def every_split(scan: Scan[F], data: bytes, expected: Sequence[F]) -> None:
    """Check that two pieces give the same frames wherever they are cut, and single bytes too."""
    for place in range(len(data) + 1):
        assert feed(scan, [data[:place], data[place:]])[0] == list(expected), f"cut at {place}"
    assert feed(scan, [data[n : n + 1] for n in range(len(data))])[0] == list(expected)

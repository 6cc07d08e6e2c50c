"""The members of a tar archive, forwards, with what is damaged told: tarfile itself takes a broken header for the end.

Behind a header that is broken, or zeroed, the next block that is a header (its checksum says so) is looked for, and
reading goes on there. Archives that were written one behind the other are read to the last.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any, Self

_HEADER_ERRORS = tarfile.HeaderError  # type: ignore[attr-defined]
_ZEROS, _NOTHING = tarfile.EOFHeaderError, tarfile.EmptyHeaderError  # type: ignore[attr-defined]
_INVALID = tarfile.InvalidHeaderError  # type: ignore[attr-defined]
_TRUNCATED = tarfile.TruncatedHeaderError  # type: ignore[attr-defined]


def tar_members(stream: Any, lost: list[str]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """(header, content) of every file in the archive's order; each content is read before the next one.

    What could not be read is added to `lost`, with its place and bytes. Raises tarfile.ReadError for what is no tar
    archive at all, and what the stream raises.
    """
    seen = False
    with _Tar.open(fileobj=stream, mode="r|", tarinfo=_Header, ignore_zeros=True) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would remember every member it has seen
            lost += tar.found_broken()
            seen = True
            if member.isfile() and (content := tar.extractfile(member)) is not None:
                yield member, content
        broken = tar.found_broken()
        if not seen and broken:
            raise tarfile.ReadError(f"no tar archive: {broken[0]}")
        lost += broken
        if seen and not tar.has_end:
            lost.append("the archive has no end mark: it may be cut off between two of its members")


class _Tar(tarfile.TarFile):
    """Remembers which bytes were passed over, as no header began there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.has_end = False
        self._regions: list[list[int]] = []
        self._joins = False
        self._zeros: list[int] | None = None
        super().__init__(*arguments, **options)

    def broke(self, start: int, end: int) -> None:
        if self._joins:
            region = self._regions[-1]
            region[:] = min(start, region[0]), max(end, region[1])
        else:
            self._regions.append([start, end])
        self._joins = True

    def zeros(self, start: int, end: int) -> None:
        self.has_end = True
        self._zeros = [self._zeros[0] if self._zeros else start, end]

    def began(self) -> None:
        if self._zeros and self._zeros[1] % tarfile.RECORDSIZE:  # no end mark: behind one a new record begins
            self.broke(*self._zeros)
        self._zeros, self._joins = None, False

    def found_broken(self) -> list[str]:
        found, self._regions, self._joins = self._regions, [], False
        return [f"no header at byte {start:,}; {end - start:,} bytes passed over" for start, end in found]


class _Header(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Self:
        start = tarfile.fileobj.tell()
        try:
            header = super().fromtarfile(tarfile)
        except _ZEROS:
            tarfile.zeros(start, tarfile.fileobj.tell())
            raise
        except _NOTHING:
            raise
        except _TRUNCATED:
            tarfile.broke(start, tarfile.fileobj.tell())
            raise
        except (_HEADER_ERRORS, ValueError, KeyError, IndexError, OverflowError) as error:
            tarfile.broke(start, tarfile.fileobj.tell())  # all but the first: a header with a broken extension
            raise _INVALID(str(error)) from error
        tarfile.began()
        return header

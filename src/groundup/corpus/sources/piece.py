"""What of a source can be read independently of the rest: a file, an archive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """One unit of reading. Its tasks are done again when `identity` is another; `where` and `cache` do not count."""

    name: str  # the same wherever the data lies; goes into the ids of its documents
    identity: str  # changes when the content does: size and time of a file, an ETag, a package's sha256, versions
    bytes: int  # about how much there is to read, for progress and estimates
    where: str = ""  # how a reader finds it: a path, an address, `package:NAME/GLOB`
    cache: str = ""  # the folder that downloads go to, where the reader needs one

"""Files that lie elsewhere: https://, s3://, gs://, hf:// and whatever else fsspec can open, read in blocks.

A block that does not arrive is asked for again. What is gone for good (404, 403) is an OSError, as with a broken file;
a network that stays away ends the run with a UserError, because a later run of the same command can go on.
"""

from __future__ import annotations

import glob
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, TypeVar

from groundup.errors import EXIT_FAILED, UserError

BLOCK_BYTES = 8_000_000
TRIES = 5
STALL_SECONDS = 60
WAIT_SECONDS = 1.0  # before the second try; twice as long before each further one

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_HUB = "hf://"
_HUB_KINDS = ("datasets/", "spaces/", "models/", "buckets/")
_FOR_GOOD = (401, 403, 404, 410, 416, 451)
T = TypeVar("T")


class RemoteUnreachableError(UserError):
    """What should be there could not be read, several times over."""

    def __init__(self, address: str, error: BaseException) -> None:
        super().__init__(
            f"could not be read in {TRIES} tries: {type(error).__name__}: {error}",
            where=address,
            fix="check the connection and the rights to read it; the same command goes on from here",
            exit_code=EXIT_FAILED,
        )


@dataclass(frozen=True)
class Found:
    """One remote file: `name` is relative to what the recipe names, `identity` changes when its content does."""

    name: str
    address: str
    identity: str
    bytes: int


def is_remote(spec: str) -> bool:
    return _SCHEME.match(spec) is not None


def file_system(address: str) -> tuple[Any, str]:
    """(fsspec file system, path in it). UserError where the scheme is unknown or its package is not installed."""
    from fsspec.core import url_to_fs

    scheme = address.partition("://")[0].lower()
    try:
        options: dict[str, Any] = {}
        if scheme in ("http", "https"):
            import aiohttp

            # A large file may take hours; a server that sends nothing for a minute is asked again.
            waits = aiohttp.ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
            options = {"client_kwargs": {"timeout": waits}}
        return url_to_fs(normalised(address), **options)  # type: ignore[no-any-return]
    except ImportError as error:
        package = _PACKAGES.get(scheme, "")
        fix = f"pip install {package}, or pip install 'groundup[remote]'" if package else str(error)
        raise UserError(f"reading {scheme}:// needs a package that is not installed", where=address, fix=fix) from error
    except ValueError as error:
        known = "https://, s3://, gs://, hf://"
        raise UserError(f"no way is known to read {scheme}://", where=address, fix=f"use one of {known}") from error


def normalised(address: str) -> str:
    """`hf://owner/name` is a data set here, as everywhere in groundup; its full form is `hf://datasets/owner/name`."""
    rest = address.removeprefix(_HUB)
    return address if rest == address or rest.startswith(_HUB_KINDS) else f"{_HUB}datasets/{rest}"


def find(spec: str) -> list[Found]:
    """The files behind an address, a folder of them or a glob, sorted. UserError where there are none."""
    system, path = file_system(spec)
    is_web = _is_web(spec)
    try:
        if glob.has_magic(path) and not (is_web and "?" in path and "*" not in path):
            infos = _insist(lambda: system.glob(path, detail=True), spec)
        else:
            info = _insist(lambda: system.info(path), spec)
            if info.get("type") == "directory" or (is_web and path.endswith("/")):
                infos = _insist(lambda: system.find(path, detail=True), spec)
            else:
                return [Found(_base_name(path), normalised(spec), _identity(info), info.get("size") or 0)]
    except OSError as error:
        raise UserError(f"no such file or folder: {error}", where=spec, fix="check the address") from error
    files = sorted((name, info) for name, info in infos.items() if info.get("type") != "directory")
    files = [(name, info) for name, info in files if not PurePosixPath(name).name.startswith(".")]
    if not files:
        raise UserError("no file matches", where=spec, fix="check the address")
    root = _common_folder([name for name, _ in files]) if glob.has_magic(path) else path.rstrip("/")
    return [
        Found(
            name.removeprefix(root).lstrip("/"),
            str(system.unstrip_protocol(name)),
            _identity(info),
            info.get("size") or 0,
        )
        for name, info in files
    ]


def _base_name(path: str) -> str:
    return PurePosixPath(path.partition("?")[0]).name or "file"


def _common_folder(names: list[str]) -> str:
    folders = [name.split("/")[:-1] for name in names]
    common = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join(common)


def _identity(info: dict[str, Any]) -> str:
    """Size, and the first of what stores say of a content: a hash, an ETag, the time it was changed."""
    keys = ("blob_id", "ETag", "etag", "md5Hash", "VersionId", "mtime", "LastModified", "last_modified", "created")
    mark = next((str(info[key]) for key in keys if info.get(key)), "")
    return f"{info.get('size')}-{mark}"


def open_remote(address: str) -> IO[bytes]:
    """A seekable stream over a remote file. OSError where it is not there (or no longer)."""
    system, path = file_system(address)
    info = _insist(lambda: system.info(path), address)
    return io.BufferedReader(_Blocks(system, path, address, info), BLOCK_BYTES)


class _Blocks(io.RawIOBase):
    """Blocks by range requests; from a server that knows no ranges, forwards from the start."""

    def __init__(self, system: Any, path: str, address: str, info: dict[str, Any]) -> None:
        self._system, self._path, self._address = system, path, address
        self._size: int | None = info.get("size")
        self._ranges = self._size is not None and info.get("partial", True)
        self._is_web = _is_web(address)
        self._place = 0
        self._web_file: Any = None
        self._stream: Any = None
        self._stream_place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            if self._size is None:
                raise OSError(f"{self._address}: the server does not say how long it is")
            offset += self._size
        self._place = max(0, offset + (self._place if whence == io.SEEK_CUR else 0))
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._size is not None and self._place >= self._size:
            return 0
        wanted = len(buffer) if self._size is None else min(len(buffer), self._size - self._place)
        data = _insist(lambda: (self._range if self._ranges else self._forwards)(wanted), self._address)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _range(self, wanted: int) -> bytes:
        data = self._web_range(wanted) if self._is_web else self._cat(wanted)
        if data is None:
            return self._forwards(wanted)
        if len(data) != wanted:
            raise ConnectionError(f"{len(data):,} bytes came where {wanted:,} were asked for")
        return data

    def _cat(self, wanted: int) -> bytes:
        return bytes(self._system.cat_file(self._path, start=self._place, end=self._place + wanted))

    def _web_range(self, wanted: int) -> bytes | None:
        """None where the server knows no ranges. (Asked by `cat_file`, it would send all of the file at once.)"""
        if self._web_file is None:
            self._web_file = self._system.open(
                self._path, "rb", block_size=BLOCK_BYTES, cache_type="none", size=self._size
            )
        try:
            self._web_file.seek(self._place)
            return bytes(self._web_file.read(wanted))
        except ValueError:  # fsspec's word for it
            self._ranges = False
            return None

    def _forwards(self, wanted: int) -> bytes:
        try:
            if self._stream is None or self._stream_place > self._place:
                self._stream, self._stream_place = self._system.open(self._path, "rb", block_size=0), 0
            while self._stream_place < self._place:
                skipped = self._stream.read(min(BLOCK_BYTES, self._place - self._stream_place))
                if not skipped:
                    raise ConnectionError("it ended early")
                self._stream_place += len(skipped)
            data: bytes = self._stream.read(wanted)
        except BaseException:
            self._stream = None  # the next try opens it anew and passes over what was read
            raise
        if not data and self._size is not None:
            self._stream = None
            raise ConnectionError(f"it ended after {self._place:,} of {self._size:,} bytes")
        self._stream_place += len(data)
        return data

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        super().close()


def _insist(call: Callable[[], T], address: str) -> T:
    """The call's result, tried again where a network may have been the cause."""
    for attempt in range(TRIES):
        try:
            return call()
        except (PermissionError, IsADirectoryError, NotImplementedError, UserError):
            raise
        except Exception as error:
            # Whatever keeps a web server from answering, fsspec says that the file is not there; the cause says why.
            cause = error.__cause__ if _is_web(address) and error.__cause__ is not None else error
            if isinstance(cause, FileNotFoundError):
                raise
            # aiohttp's, botocore's and the Hub's errors have no common base; all that have a status call it so
            if _status(cause) in _FOR_GOOD:
                raise OSError(f"{type(cause).__name__}: {cause}") from error
            if attempt == TRIES - 1:
                raise RemoteUnreachableError(address, error) from error
            time.sleep(WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable")


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found
    return getattr(error, "status", None) or getattr(response, "status_code", None)


def _is_web(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


def dataset_license(spec: str) -> str:
    """The licence that a Hub data set's card names; empty where it has no card, or the card no licence."""
    match = re.match(r"hf://datasets/([^/@]+/[^/@]+(?:@[^/]+)?)", normalised(spec))
    if match is None:
        return ""
    system, path = file_system(f"hf://datasets/{match[1]}/README.md")
    try:
        card = bytes(_insist(lambda: system.cat_file(path), spec)).decode("utf-8", "replace")
    except (OSError, RemoteUnreachableError):
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^license:\s*(?:-\s*)?[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""

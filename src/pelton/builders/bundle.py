"""A content-addressed snapshot of a source directory: what a revision runs, whatever happens to the source.

Digest = SHA-256 over the sorted entries: kind, executable bit, relative path, content. A bundle is complete
or absent (made aside, then renamed), and making it twice costs one read. Called by `controlplane/` and
`cli/`. No threads: reading gives the event loop a turn between chunks.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from pelton.errors import BuildError, SourceError

__all__ = ["LIMIT_BYTES", "Bundle", "Ignored", "snapshot", "walk"]

LIMIT_BYTES: Final = 256 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_ALWAYS: Final = (".git", "__pycache__", ".venv", "node_modules", "*.pyc")
_IGNORE_FILE: Final = ".peltonignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A snapshot.

    Attributes:
        path: Its directory, absolute, named after the digest.
        digest: `sha256:` and 64 hex digits.
        files: Number of files and links.
        size_bytes: Sum of the files' sizes.
    """

    path: str
    digest: str
    files: int
    size_bytes: int


class Ignored:
    """What a snapshot leaves out: the usual rubbish, and the lines of `.peltonignore`.

    A line is a shell pattern for a name at any depth, or, with a slash inside, for a path from the root; a
    slash at the end means directories only; `!` takes an earlier line back; `#` starts a comment.
    """

    def __init__(self, root: Path) -> None:
        lines: list[str] = []
        file = root / _IGNORE_FILE
        if file.is_file():
            lines = file.read_text(errors="replace").splitlines()
        self._rules = [self._rule(line) for line in (*_ALWAYS, *lines) if line.strip() and line[0] != "#"]

    @staticmethod
    def _rule(line: str) -> tuple[bool, bool, bool, str]:
        text = line.strip()
        negated = text.startswith("!")
        text = text.removeprefix("!")
        directories_only = text.endswith("/")
        text = text.rstrip("/")
        anchored = "/" in text
        return negated, directories_only, anchored, text.lstrip("/")

    def __call__(self, relative: str, *, is_dir: bool) -> bool:
        """Tell whether a path relative to the root is left out; the last matching line decides."""
        ignored = False
        name = relative.rpartition("/")[2]
        for negated, directories_only, anchored, pattern in self._rules:
            if directories_only and not is_dir:
                continue
            if fnmatch.fnmatchcase(relative if anchored else name, pattern):
                ignored = not negated
        return ignored


@dataclass(frozen=True, slots=True)
class _Entry:
    relative: str
    kind: str  # F file, L link
    executable: bool
    target: str = ""


def walk(root: Path) -> list[tuple[str, os.stat_result]]:
    """Return (relative path, lstat) of everything that a snapshot would hold, sorted; for `--reload` too."""
    ignored = Ignored(root)
    found: list[tuple[str, os.stat_result]] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as exc:
            raise SourceError(f"cannot be read: {exc.strerror}", where=str(root / folder)) from exc
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            is_dir = entry.is_dir(follow_symlinks=False)
            if ignored(relative, is_dir=is_dir):
                continue
            if is_dir:
                pending.append(relative)
                continue
            try:
                found.append((relative, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue  # deleted while we look: editors do that
    return sorted(found)


def _entries(root: Path) -> list[_Entry]:
    entries = []
    for relative, status in walk(root):
        if stat.S_ISLNK(status.st_mode):
            entries.append(_Entry(relative, "L", False, _inner_link(root, relative)))
        elif stat.S_ISREG(status.st_mode):
            entries.append(_Entry(relative, "F", bool(status.st_mode & 0o111)))
        # Sockets, pipes and devices hold no source and cannot be copied.
    return entries


def _inner_link(root: Path, relative: str) -> str:
    """Return a link's target relative to itself; SourceError when it leads out of the tree or nowhere."""
    path = root / relative
    real_root = Path(os.path.realpath(root))
    real = Path(os.path.realpath(path))
    hint = f"Replace it by a file, or name it in {_IGNORE_FILE}."
    if not real.is_relative_to(real_root):
        raise SourceError("the symbolic link leads out of the source directory", where=str(path), hint=hint)
    if not real.exists():
        raise SourceError("the symbolic link leads to nothing", where=str(path), hint=hint)
    return os.path.relpath(real, (real_root / relative).parent)


class _Pass:
    """One pass over the entries: the digest so far, and where copies go (None: only read)."""

    def __init__(self, root: Path, into: Path | None) -> None:
        self._root = root
        self._into = into
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    async def run(self, entries: list[_Entry]) -> str:
        for entry in entries:
            if entry.kind == "L":
                content = entry.target.encode()
                self._link(entry)
            else:
                content = await self._file(entry)
            flag = "x" if entry.executable else "-"
            self._hash.update(f"{entry.kind}{flag} {len(entry.relative.encode())} {entry.relative} ".encode())
            self._hash.update(content + b"\n")
        return self._hash.hexdigest()

    def _link(self, entry: _Entry) -> None:
        if self._into is not None:
            place = self._into / entry.relative
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(entry.target)

    async def _file(self, entry: _Entry) -> bytes:
        """Return the content's digest, copying on the way."""
        digest = hashlib.sha256()
        out = -1
        try:
            with (self._root / entry.relative).open("rb", buffering=0) as file:
                if self._into is not None:
                    place = self._into / entry.relative
                    place.parent.mkdir(parents=True, exist_ok=True)
                    mode = 0o755 if entry.executable else 0o644
                    out = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                    os.fchmod(out, mode)  # whatever the umask says: other uids run this
                while chunk := file.read(_CHUNK_BYTES):
                    self.size_bytes += len(chunk)
                    if self.size_bytes > LIMIT_BYTES:
                        raise SourceError(
                            f"the source is larger than {LIMIT_BYTES // 1024 // 1024} MiB",
                            where=str(self._root),
                            hint=f"Name data and build output in {_IGNORE_FILE}.",
                        )
                    digest.update(chunk)
                    if out >= 0:
                        _write(out, chunk)
                    await asyncio.sleep(0)
        except FileNotFoundError as exc:
            raise SourceError(
                "the file vanished while it was read", where=str(self._root / entry.relative)
            ) from exc
        except PermissionError as exc:
            raise SourceError("the file cannot be read", where=str(self._root / entry.relative)) from exc
        finally:
            if out >= 0:
                os.close(out)
        return digest.digest()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def digest_of(source_dir: Path | str) -> str:
    """Return the digest that a bundle of this directory would have, `sha256:<hex>`; copies nothing.

    Raises:
        SourceError: As `snapshot`.
    """
    root = Path(source_dir)
    if not root.is_dir():
        raise SourceError("there is no such source directory", where=str(root), hint="Check the path.")
    return f"sha256:{await _Pass(root, None).run(_entries(root))}"


async def snapshot(source_dir: Path | str, bundles_dir: Path | str) -> Bundle:
    """Make the bundle of a source directory, or find it made.

    Cancelling leaves nothing behind but, at worst, a directory `.new-*` that no one refers to.

    Args:
        source_dir: Directory to copy.
        bundles_dir: Where bundles live; made if missing.

    Raises:
        SourceError: No such directory, a link that leads outside, an unreadable file, or over 256 MiB.
        BuildError: The bundle cannot be written.
    """
    root, bundles = Path(source_dir), Path(bundles_dir)
    if not root.is_dir():
        raise SourceError(
            "there is no such source directory", where=str(root), hint="Check the path and its spelling."
        )
    entries = _entries(root)
    if not entries:
        raise SourceError("the source directory is empty", where=str(root))
    probe = _Pass(root, None)
    digest = await probe.run(entries)
    place = bundles / digest
    if place.is_dir():
        return _bundle(place, digest, entries, probe.size_bytes)
    fresh = bundles / f".new-{uuid4().hex[:12]}"
    try:
        bundles.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        # The source may have changed since the first read: the copy's own digest names it.
        copy = _Pass(root, fresh)
        digest = await copy.run(entries)
        _open_directories(fresh)
        place = bundles / digest
        try:
            fresh.rename(place)
        except OSError:
            if not place.is_dir():
                raise  # else another process was first: its bundle has the same content
    except OSError as exc:
        raise BuildError(f"the bundle cannot be written: {exc.strerror}", where=str(bundles)) from exc
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return _bundle(place, digest, entries, copy.size_bytes)


def _open_directories(root: Path) -> None:
    """Give every directory 0755, so that a function's own uid can read its bundle."""
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)


def _bundle(place: Path, digest: str, entries: list[_Entry], size_bytes: int) -> Bundle:
    return Bundle(
        path=str(place.absolute()), digest=f"sha256:{digest}", files=len(entries), size_bytes=size_bytes
    )

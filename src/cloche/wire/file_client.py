"""A client's end of the requests for files (`wire.files`), for clients that wait.

The sandbox is not trusted: records are checked, and callers check names before they use them on the host.
"""

import os
import socket
from collections.abc import Iterable, Iterator
from typing import Final

from cloche.wire import files
from cloche.wire.control_client import ControlClient, ControlError
from cloche.wire.files import FileEntry, Record, RecordDecoder, entry_from
from cloche.wire.protocol import Fields, ProtocolError, take_int

_READ_BYTES: Final = 1 << 18


class FileError(ControlError):
    """The file system inside has refused."""

    def __init__(self, errno: int, path: bytes = b"") -> None:
        super().__init__(os.strerror(errno))
        self.errno: int = errno
        self.path: bytes = path


class FileClient:
    """Sends requests for files over a connection, which the caller uses for nothing else meanwhile."""

    def __init__(self, client: ControlClient, rights: Fields | None = None) -> None:
        """`rights`: the fields that say as which user requests act; None: with all rights."""
        self.client: ControlClient = client
        self.rights: Fields = {"all_rights": True} if rights is None else rights

    def _checked(self, fields: Fields, path: bytes = b"") -> Fields:
        try:
            errno = take_int(fields, "errno", 0, 0, 4095)
        except ProtocolError as error:
            raise ControlError(str(error)) from None
        if errno:
            raise FileError(errno, path)
        return fields

    def _call(self, method: str, fields: Fields, path: bytes) -> Fields:
        return self._checked(self.client.call(method, {**self.rights, **fields}), path)

    def stat(self, path: bytes, *, follow: bool = False) -> FileEntry:
        """Describe the file at a path. Raises ControlError, FileError."""
        found = self._call(files.STAT, {"path": path, "follow": follow}, path).get("entry")
        try:
            if isinstance(found, list):
                return entry_from(found)
        except ProtocolError:
            pass
        raise ControlError("the sandbox sends what is no entry")

    def make_directory(self, path: bytes, mode: int = 0o755, *, parents: bool = False) -> None:
        """mkdir.  Raises ControlError, FileError."""
        self._call(files.MKDIR, {"path": path, "mode": mode, "parents": parents}, path)

    def remove(self, path: bytes, *, recursive: bool = False) -> None:
        """rm, rmdir or rm -r.  Raises ControlError, FileError."""
        self._call(files.REMOVE, {"path": path, "recursive": recursive}, path)

    def rename(self, old: bytes, new: bytes) -> None:
        """mv.  Raises ControlError, FileError."""
        self._call(files.RENAME, {"old": old, "new": new}, old)

    def records(self, method: str, fields: Fields) -> Iterator[Record]:
        """Yield the records of a stream, without the last one (DONE). Raises ControlError, FileError."""
        ours, theirs = socket.socketpair()
        try:
            ident = self.client.ask(method, {**self.rights, **fields}, [theirs.fileno()])
            theirs.close()
            decoder = RecordDecoder()
            while True:
                data = ours.recv(_READ_BYTES)
                if not data:
                    break
                try:
                    found = decoder.feed(data)
                except ProtocolError as error:
                    raise ControlError(f"the sandbox sends what it should not: {error}") from None
                for record in found:
                    if record.kind != files.DONE:
                        yield record
            self._checked(self.client.answer(ident).fields)
            if not decoder.is_done:
                raise ControlError("the stream was cut off")
        finally:
            theirs.close()
            ours.close()

    def get(
        self,
        paths: list[bytes],
        *,
        depth: int = 0,
        data: bool = True,
        follow: bool = False,
        own: bool = False,
        xattrs: bool = False,
    ) -> Iterator[Record]:
        """Files, and what directories hold down to `depth`.  Raises ControlError, FileError."""
        fields: Fields = {"paths": list(paths), "depth": depth, "data": data, "follow": follow}
        fields["own"], fields["xattrs"] = own, xattrs
        return self.records(files.GET, fields)

    def changes(self, paths: list[bytes], limit: int = -1) -> Iterator[Record]:
        """The sandbox's changes at or below `paths` (none: anywhere), with contents of at most `limit` bytes.

        Raises ControlError, FileError.
        """
        return self.records(files.CHANGES, {"paths": list(paths), "limit": limit})

    def places(self) -> list[object]:
        """Ask the monitor which parts of the host are where inside. Raises ControlError."""
        found = self.client.call(files.MOUNTS, {}).get("mounts")
        return found if isinstance(found, list) else []

    def put(
        self, path: bytes, records: Iterable[bytes], *, follow: bool = False, parents: bool = False
    ) -> int:
        """Make files below a directory; returns how many. Raises ControlError, FileError, and what `records` raises."""
        ours, theirs = socket.socketpair()
        try:
            fields: Fields = {**self.rights, "path": path, "follow": follow, "parents": parents}
            ident = self.client.ask(files.PUT, fields, [theirs.fileno()])
            theirs.close()
            out = bytearray()
            try:
                for record in records:
                    out += record
                    if len(out) >= _READ_BYTES:
                        ours.sendall(out)
                        out.clear()
                ours.sendall(bytes(out) + files.pack([files.DONE]))
            except OSError as failure:
                if not isinstance(failure, (BrokenPipeError, ConnectionResetError)):
                    raise
            answer = self._checked(self.client.answer(ident).fields, path)
            count = answer.get("files")
            return count if isinstance(count, int) else 0
        finally:
            theirs.close()
            ours.close()

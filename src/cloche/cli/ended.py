"""The files of a sandbox that has ended, and whose layer is kept: they are looked at, and changed, as if it ran.

A sandbox without a program is started on the layer. It has the same mounts as the one that has ended, but no network,
no ports and none of its variables, and neither a name nor a record. Its monitor is a child of the verb, serves only
that, and ends with it. Until then the layer is in use.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Final

from cloche.boot.spec import SandboxSpec
from cloche.cli.layered import bare_spec
from cloche.cli.monitor import Monitor
from cloche.images.errors import ImageError
from cloche.images.tree import OpenTree
from cloche.runtime import layers
from cloche.runtime.layers import KeptLayer
from cloche.runtime.records import RecordError
from cloche.wire.control_client import ControlClient, ControlError

_INTERNAL: Final = 125


@contextlib.contextmanager
def opened(layer: KeptLayer) -> Iterator[ControlClient]:
    """A connection to a sandbox on the layer, which is gone when the block is left.

    Raises RecordError (the layer is in use, or not to be understood), OSError, ControlError.
    """
    layer.take()
    layer.make_current()
    spec = bare_spec(layer)
    spec.layer_source = layer.files()
    if spec.image_tree:
        try:
            image = OpenTree(os.path.join(spec.root_source, os.fsdecode(spec.image_tree)))
        except (ImageError, OSError):
            raise RecordError(f"the image of {layer.name} is not here any more; cloche pull it") from None
    else:
        image = None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = _INTERNAL
        try:
            os.close(ready_read)
            ours.close()
            status = _monitor(spec, layer, theirs, ready_write)
        except BaseException as failure:
            os.write(ready_write, b"F" + bytes([_INTERNAL]) + str(failure).encode())
        finally:
            os._exit(status)
    theirs.close()
    os.close(ready_write)
    client = ControlClient(ours)
    try:
        with open(ready_read, "rb") as ready:
            answer = ready.read()
        if answer[:1] != b"R":
            raise ControlError(answer[2:].decode(errors="replace") or "the monitor died")
        yield client
    finally:
        client.close()
        os.waitpid(child, 0)  # after this, changes are written and the layer is released
        layer.release()
        if image is not None:
            image.file.close()


def _monitor(spec: SandboxSpec, layer: KeptLayer, client: socket.socket, ready_fd: int) -> int:
    """The child: until `client` is closed.  The exit status.  Raises LaunchError, OSError."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    monitor = Monitor(spec)
    monitor.layer = layer
    monitor.ready_fd = ready_fd
    sandbox = monitor.start([null, null, null])
    monitor.serve_only(client, sandbox)
    return monitor.supervise(sandbox)


def find_kept(name: str, root: str) -> KeptLayer | None:
    """The layer of a sandbox that does not run.  Raises RecordError."""
    try:
        return layers.find_of(name, root)
    except OSError:
        return None

"""Messages and pieces of streams are copied whole or not at all (skb_copy_datagram_iter, skb_copy_datagram_from_iter).

A fault that the stub finds in a deferred copy comes too late for this: the call gives EFAULT, what was read is gone.
"""

from cloche.abi.errno import EFAULT, LinuxError
from cloche.mm.usermem import IovIter


def copy_whole(dst: IovIter, data: bytes) -> bool:
    """Copy all of `data`, which fits; False after a fault, with `dst` where it was."""
    try:
        copied = dst.copy_to(data)
    except LinuxError as error:
        if error.errno != EFAULT:
            raise
        return False
    if copied < len(data):
        dst.revert(copied)
        return False
    return True


def copy_pieces(dst: IovIter, pieces: list[bytes]) -> int:
    """Copy what fits, at once; after a fault as many whole pieces as can be copied.  How many bytes."""
    data = b"".join(pieces)
    if copy_whole(dst, data):
        return len(data)
    done = 0
    for piece in pieces:
        if not copy_whole(dst, piece):
            break
        done += len(piece)
    return done


def take_whole(src: IovIter, length: int) -> bytes:
    """Exactly `length` bytes; `src` must have that many. Raises LinuxError(EFAULT), with `src` where it was."""
    data = src.copy_from(length)
    if len(data) < length:
        src.revert(len(data))
        raise LinuxError(EFAULT)
    return data

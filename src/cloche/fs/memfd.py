"""memfd_create(2), and the seals of F_ADD_SEALS (fcntl(2), mm/memfd.c), over files of a tmpfs."""

from typing import Final

from cloche.abi.errno import (
    EINVAL,
    ENODEV,
    EPERM,
    LinuxError,
)
from cloche.abi.fcntl import (
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    O_RDWR,
)
from cloche.abi.mman import MFD_ALLOW_SEALING, MFD_CLOEXEC, MFD_EXEC, MFD_HUGETLB, MFD_NOEXEC_SEAL
from cloche.abi.stat import S_IFREG
from cloche.fs.tmpfs import WRITE_SEALS, InternalMount, TmpFs, TmpfsDescription, TmpfsFile
from cloche.vfs.objects import (
    Context,
    Dentry,
    FileDescription,
    Mount,
    Path,
)

_ALL_SEALS: Final = (
    F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC
)


_MFD_NAME_MAX: Final = 249
_MFD_HUGE_SIZE: Final = 63 << 26  # MFD_HUGE_*: the logarithm of a size


# -- memfd_create(2) and seals -----------------------------------------------------------------------------
class MemfdMount(InternalMount):
    """The kernel's own mount of a tmpfs, under which nameless files live (shm_mnt)."""

    def __init__(self, fs: TmpFs) -> None:
        self.fs: TmpFs = fs
        fs.is_internal = True
        self.root: Dentry = Dentry(b"", None, fs.root_inode)
        self.mount: Mount = Mount(0, fs, self.root)

    def new_file(self, ctx: Context, name: bytes, mode: int) -> TmpfsDescription:
        """A nameless regular file, open for reading and writing; /proc shows "/NAME (deleted)"."""
        fs = self.fs
        fs.account.charge_inode()
        inode = TmpfsFile(fs, fs.alloc_ino(), S_IFREG | mode, ctx.creds.fsuid, ctx.creds.fsgid)
        inode.nlink = 0
        dentry = Dentry(name, self.root, inode)
        dentry.is_deleted = True
        file = TmpfsDescription(Path(self.mount, dentry), inode, O_RDWR)
        file.creds = ctx.creds
        return file  # not counted as a writer, as in Linux: a memfd can be executed while it is open


def memfd_create(ctx: Context, place: MemfdMount, name: bytes, flags: int) -> FileDescription:
    """memfd_create(2): MFD_*; the caller applies MFD_CLOEXEC.  Raises LinuxError."""
    known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC
    if flags & MFD_HUGETLB:
        known |= MFD_HUGETLB | _MFD_HUGE_SIZE
    if flags & ~known or len(name) > _MFD_NAME_MAX:
        raise LinuxError(EINVAL)
    if flags & MFD_NOEXEC_SEAL and flags & MFD_EXEC:
        raise LinuxError(EINVAL)
    if flags & MFD_HUGETLB:
        raise LinuxError(ENODEV)
    file = place.new_file(ctx, b"memfd:" + name, 0o666 if flags & MFD_NOEXEC_SEAL else 0o777)
    if flags & MFD_NOEXEC_SEAL:
        file.file.seals = F_SEAL_EXEC
    elif flags & MFD_ALLOW_SEALING:
        file.file.seals = 0
    return file


def get_seals(file: FileDescription) -> int:
    """fcntl(F_GET_SEALS); -EINVAL for other files."""
    inode = file.inode
    return inode.seals if isinstance(inode, TmpfsFile) and inode.tmpfs.kind == "tmpfs" else -EINVAL


def add_seals(ctx: Context, file: FileDescription, seals: int) -> int:
    """fcntl(F_ADD_SEALS) (mm/memfd.c); 0 or -errno."""
    inode = file.inode
    if not file.is_writable():
        return -EPERM
    if seals & ~_ALL_SEALS:
        return -EINVAL
    if not isinstance(inode, TmpfsFile) or inode.tmpfs.kind != "tmpfs":
        return -EINVAL
    if inode.seals & F_SEAL_SEAL:
        return -EPERM
    if seals & WRITE_SEALS & ~inode.seals and inode.storage.fd >= 0:
        # The host knows whether the memfd is mapped for writing: EBUSY then.
        result = inode.storage.seal(seals & WRITE_SEALS)
        if result < 0:
            return result
    if seals & F_SEAL_EXEC and inode.mode & 0o111:
        seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
    inode.seals |= seals
    return 0

"""The fields of the kernel's state that are not data, each with the reason why nothing is lost with it.

Everything that can be reached from `Kernel` is data: numbers, texts, containers of them, and objects with such
fields. The exceptions are listed here, by "module.Class" (the class with all below it) or "module.Class.field". Most
are functions of the program, handles of host resources, or belong to the outside of the sandbox.
tests/style/test_state.py walks the classes, and fails on a field that is neither data nor listed here, and on an
entry that is not needed.
"""

from typing import Final

_CODE: Final = "a function of the row that names it; made anew with the tree of the file system"
_OUTSIDE: Final = "a part of the conversation with the monitor, which begins anew"

REBUILT: Final[dict[str, str]] = {
    # Functions of the program.
    "kernel.task.Hooks": "functions; boot and the parts put them in place",
    "kernel.task.Kernel.table": "functions; boot builds it from the rows of syscalls.table",
    "syscalls.long_mm.Emptying.handler": "the function of the call in its `args`",
    "fs.pieces.PartsDescription.rest": "the rest of a text; made anew and skipped up to where the reader is",
    "fs.proc.KernelFile.text": _CODE,
    "fs.proc_pid.MountsDescription.line": _CODE,
    "fs.proc_pid.PieceDescription.piece": _CODE,
    "fs.proc_pid.ProcFs.id_map_hook": "a class of fs.proc_idmap; fs.proc puts it in place",
    "fs.proc_pid.TaskFile.taker": _CODE,
    "fs.proc_pid.TaskFile.text": _CODE,
    "fs.proc_sys.SysctlFile.consumer": _CODE,
    "fs.proc_sys.SysctlFile.producer": _CODE,
    "fs.sysfs.SysKernelAttribute.text": _CODE,
    "vfs.pseudo.ComputedSymlink.producer": _CODE,
    "vfs.pseudo.GeneratedFile.producer": _CODE,
    "vfs.pseudo.WritableFile.consumer": _CODE,
    "vfs.pseudo.WritableFile.producer": _CODE,
    "boot.network.NetFile.text": _CODE,
    # Handles of host resources.
    "platform.interface.Platform": "the host's side of all guests; the platform starts anew",
    "platform.interface.HostProcess": "a process of the host, made anew and filled from the areas of its AddressSpace",
    "platform.interface.HostThread": "a thread of the host; its registers are read and set through it",
    "fs.hostfd.HostFd": "a descriptor that the caller has given; whoever starts the sandbox again gives one",
    "fs.host_tty.TerminalBridge": "the caller's terminal, as above",
    "kernel.lanes.Lanes.bell_fd": "of its threads, which are anew; no state is carried while one is away",
    "fs.gofer_link.GoferLink": "the connection to a gofer, which is started anew",
    "fs.gofer_watch.NameWatch": "events of a gofer that is started anew; what they were about is asked for again",
    "fs.gofer_inode.GoferInode.read_fd": "`fd_to_read` asks the gofer again, by the inode's number there",
    "fs.gofer_inode.GoferInode.write_fd": "`fd_to_write` asks the gofer again, by the inode's number there",
    "fs.volume_quota.VolumeQuota": "the account of a volume, which is opened anew; what is in it is on the disk",
    "fs.gofer_link.GoferRequest.fds": "on the way with a request or its answer; the call asks again",
    "fs.text.OpenText._fd": "a patched copy, asked of the analyst again",
    "fs.text.TextAhead._fd": "a patched copy, as above",
    "wire.imagetree.TreeFile.fd": "the tree of an image, opened anew by its name in the attach point",
    "fs.kept.LayerStore": "the directory of a kept layer, which is opened anew; what is in it is on the disk",
    "fs.kept_disk.LayerDisk": "the directory of a kept layer, which is opened anew; what is in it is on the disk",
    "fs.kept_rows.Pieces": "rows for the journal of a kept layer; the file systems have what they say",
    "fs.kept_rewrite.Rewriter": "the journal of a kept layer is as good without its being written anew",
    "mm.handle.HostHandle.fd": "`reopen` has it again, from the handle's other fields",
    "vfs.mapping.FileMapping.host_fd": "of the mapped file's inode, which has it",
    "net.published.Publisher": "the connection to the broker, which is started anew",
    "net.host_stream.HostStream": "a connection of the host: to its peer it is broken",
    "net.unix_host.Door": "a socket of the host in a volume: to its clients the server is gone",
    "net.unix_host.HostLink": "a connection of the host: to its peer it is broken",
    "net.joined.GramTwin": "a socket of a namespace of the host, which is made anew at the same port",
    "net.joined.Joined": "the connection to the network process, which is started anew",
    "net.joined.NetRequest": "a question to it, which is asked again",
    "net.outward.Flow": "a UDP socket of the host; the next datagram asks for another",
    "net.outward.Outside": "the connection to egress, which is started anew",
    # Numbers of descriptors of guests.
    "syscalls.leases.FileLease.fd": "a guest's descriptor",
    "syscalls.sys_fcntl.RecordLockWait.fd": "a guest's descriptor",
    "fs.dnotify.DnotifyNotice.fd": "a guest's descriptor",
    "fs.epoll.EpollItem.fd": "a guest's descriptor",
    "fs.proc_pid.FdInfoFile.fd": "a guest's descriptor",
    "fs.proc_pid.FdLink.fd": "a guest's descriptor",
    "kernel.fasync.AsyncNotifier.fd": "a guest's descriptor",
    # Things outside of the sandbox.
    "boot.spec.SandboxSpec.oom_fd": "the caller's, of a control group; given at each start",
    "boot.spec.EgressSpec.on_authority": "the caller's; egress has another authority after each start",
    "boot.spec.EgressSpec.log_fd": "the caller's; given at each start",
    "boot.spec.EgressSpec.second_log_fd": "the caller's; given at each start",
    "boot.spec.SandboxSpec.strace_fd": "the caller's; given at each start",
    "boot.spec.SandboxSpec.device_fd": "opened by the keeper at each start",
    "boot.spec.SandboxSpec.network_fd": "the caller's; given at each start",
    "boot.spec.SandboxSpec.user_ns_fd": "the caller's; given at each start",
    "boot.control.Control": _OUTSIDE,
    "boot.control.Starting": _OUTSIDE,
    "boot.files.Watcher": _OUTSIDE,
    "boot.execs.Launch.fds": "the caller's, of a command that is being started; he asks again",
    "boot.files.Request.fds": "the caller's, of a request for files that waits; he asks again",
    "boot.files.Stream": _OUTSIDE,
    "boot.files.Remover.one": _OUTSIDE,
    "boot.files.Request.message": _OUTSIDE,
    "syscalls.strace.Tracer": "--strace, which is asked for at each start",
    # Caches.
    "kernel.programs.Programs._known": "what programs were seen to open; a cache that is learnt anew",
}

# Names of modules that are bound to mutable objects. Those that `Kernel` refers to are its state; for the others the
# reason is given why they are not.
MODULE_STATE: Final[dict[str, str]] = {
    "mm.quota.KERNEL_MEMORY": "Kernel.memory",
    "mm.quota.DESCRIPTORS": "Kernel.descriptors",
    "mm.handle.CLOSED": "the handle of nothing; it never changes",
    "mm.content.CONTENT_KEYS": "Kernel.content_keys",
    "vfs.forgetting.NAMES": "a cache, of names that can be looked up again",
    "vfs.mapping.SHARED_MEMORY": "Kernel.shared_memory",
    "vfs.mount.MOUNT_NUMBERS": "Kernel.mount_numbers",
    "vfs.entries.RENAME_COOKIES": "Kernel.rename_cookies",
    "vfs.mount._kinds": "functions; boot registers them",
    "platform.hostsys._proc": "the descriptor of the host's /proc; boot opens it",
    "platform.shared_pages._shared": "whether this process is a template's fork",
    "vfs.devices._char": "functions; boot registers them",
    "vfs.devices._block": "functions; boot registers them",
    "vfs.devices._fifo": "a function; boot registers it",
}

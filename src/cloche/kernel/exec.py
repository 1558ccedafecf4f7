"""execve(2): always into a blank process (docs/design.md 3.5).

`begin_exec` first opens and parses everything and orders the new image on a blank process; an error there leaves the
caller unchanged. Then the other threads and the old process are ended, and the task is resumed in the new one: the
stub maps the areas, fills them and jumps to the entry point without coming back.
"""

from cloche.abi.errno import (
    EACCES,
    EAGAIN,
    EIO,
    ELIBBAD,
    ELOOP,
    ENOENT,
    ENOEXEC,
    ETXTBSY,
    LinuxError,
)
from cloche.abi.inotify import IN_ACCESS, IN_OPEN, IN_OPEN_EXEC
from cloche.abi.personality import ADDR_NO_RANDOMIZE
from cloche.abi.resource import RLIMIT_AS, RLIMIT_STACK
from cloche.abi.signal import SIGSEGV, SS_DISABLE
from cloche.abi.stat import S_IFREG
from cloche.abi.wait import status_signaled
from cloche.arch.sigframe import AltStack
from cloche.arch.syscalls import SYS_execve
from cloche.kernel.blocking import (
    BLOCKED,
    DEAD,
    RESUME,
    Blocked,
    TaskBase,
    block_on_time,
    end_wait,
    next_slice,
)
from cloche.kernel.closing import FEW
from cloche.kernel.creds import install as install_creds
from cloche.kernel.delivery import core_flag
from cloche.kernel.exec_creds import ExecCredentials, exec_credentials
from cloche.kernel.exec_strings import StackContents, packed
from cloche.kernel.exit import detach_address_space, do_group_exit, kill_other_threads
from cloche.kernel.loader import (
    Image,
    build_stack,
    choose_stack,
    map_segments,
    map_stack,
    place_image,
    read_image,
    stack_bytes_for_limit,
)
from cloche.kernel.phase import GUEST
from cloche.kernel.pid_namespace import pid_in
from cloche.kernel.siginfo import SigAction, SignalHandlers
from cloche.kernel.task import Kernel, Task
from cloche.mm.address_space import AddressSpace
from cloche.mm.area import page_up
from cloche.mm.usermem import UserMemory
from cloche.platform.interface import HostProcess, HostThread, Registers
from cloche.vfs.namei import d_path, path_lookup
from cloche.vfs.objects import MAY_EXEC, MAY_READ, Context, FileDescription, Path, notify_path

MAX_ARG_STRLEN = 131072
MAX_INTERPRETERS = 5  # levels of #!
MNT_NOEXEC = 8
# READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE, ADDR_COMPAT_LAYOUT, MMAP_PAGE_ZERO: cleared for programs that gain privileges.
_PER_CLEAR_ON_SETID = 0x0040000 | 0x0400000 | 0x0200000 | 0x0100000


class ExecImage:
    """A program that can be started: main image, interpreter."""

    def __init__(self, path: Path, main: Image, head: list[bytes]) -> None:
        self.path: Path = path
        self.main: Image = main
        self.interpreter: Image | None = None
        self.head: list[bytes] = head  # in place of argv[0]
        self.comm: bytes = b""

    def is_doomed(self) -> bool:
        """Whether it cannot be mapped: its process is then killed (as by a load that fails after begin_new_exec)."""
        return self.main.is_doomed or (self.interpreter is not None and self.interpreter.is_doomed)


def open_exec(ctx: Context, path: Path) -> FileDescription:
    """Open a file for execution.  Raises LinuxError(EACCES …), LeaseBroken."""
    inode = path.inode()
    if inode.mode & 0o170000 != S_IFREG:
        raise LinuxError(EACCES)
    if path.mount.flags & MNT_NOEXEC or not inode.permission(ctx, MAY_EXEC) or not inode.mode & 0o111:
        raise LinuxError(EACCES)
    if inode.locks is not None:
        inode.locks.break_leases(is_write=False, can_wait=True)
    if inode.write_count > 0:
        raise LinuxError(ETXTBSY)
    file = inode.open(ctx, path, 0)
    notify_path(path, IN_OPEN | IN_OPEN_EXEC)
    return file.get()


def _read_header(ctx: Context, file: FileDescription) -> bytes:
    """The first bytes of an executable; the rest is mapped, or read later."""
    header = file.read_bytes(ctx, 0, 4096)
    if header and file.path is not None:
        notify_path(file.path, IN_ACCESS)
    return header


def prepare(
    ctx: Context,
    kernel: Kernel,
    path: Path,
    name: bytes,
    first: bytes,
    *,
    is_unreachable: bool = False,
) -> ExecImage:
    """Open and parse an executable, following `#!` lines.  Raises LinuxError; holds references on success.

    `first` is argv[0].

    `is_unreachable`: `name` refers to a descriptor that the execve closes, so an interpreter could not open it.
    """
    scripts: list[FileDescription] = []
    try:
        return _prepare(ctx, kernel, path, name, first, scripts, is_unreachable=is_unreachable)
    finally:
        for script in scripts:  # closed once their interpreters are open
            script.put()


def _prepare(
    ctx: Context,
    kernel: Kernel,
    path: Path,
    name: bytes,
    first: bytes,
    scripts: list[FileDescription],
    *,
    is_unreachable: bool,
) -> ExecImage:
    comm = name.rsplit(b"/", 1)[-1][:15]
    head = [first]
    max_address = kernel.platform.max_address()
    for _level in range(MAX_INTERPRETERS + 1):
        file = open_exec(ctx, path)
        try:
            header = _read_header(ctx, file)
            if header[:2] == b"#!":
                interpreter, argument = parse_script(header)
                if is_unreachable:
                    raise LinuxError(ENOENT)
                head = [interpreter, *([argument] if argument else []), name, *head[1:]]
                name = interpreter
                is_unreachable = False
                path = _interpreter_path(ctx, interpreter)
                scripts.append(file)
                continue
            main = read_image(ctx, file, d_path(ctx.fs.root, path), max_address, header)
        except BaseException:
            file.put()
            raise
        image = ExecImage(path, main, head)
        image.comm = comm
        if main.interpreter is not None:
            try:
                image.interpreter = _open_interpreter(ctx, main.interpreter, max_address)
            except BaseException:
                file.put()
                raise
        low = kernel.platform.min_address()
        for part in (main, image.interpreter):
            if part is not None and not part.is_dyn and not part.is_doomed:
                part.is_doomed = min([segment.vaddr for segment in part.segments]) < low
        return image
    raise LinuxError(ELOOP)


def _interpreter_path(ctx: Context, name: bytes) -> Path:
    """The path of an interpreter. An empty name is the current directory, which cannot be executed (open_exec)."""
    if not name:
        raise LinuxError(EACCES)
    return path_lookup(ctx, None, name, 1)


def _open_interpreter(ctx: Context, name: bytes, max_address: int) -> Image:
    path = _interpreter_path(ctx, name)
    file = open_exec(ctx, path)
    try:
        header = _read_header(ctx, file)
        if len(header) < 64:
            raise LinuxError(EIO)
        return read_image(ctx, file, d_path(ctx.fs.root, path), max_address, header, is_main=False)
    except LinuxError as error:
        file.put()
        raise LinuxError(ELIBBAD if error.errno == ENOEXEC else error.errno) from None
    except BaseException:
        file.put()
        raise


def parse_script(header: bytes) -> tuple[bytes, bytes]:
    """Interpreter and optional argument of a `#!` line (fs/binfmt_script.c).  Raises LinuxError(ENOEXEC)."""
    line = header[2:256].ljust(254, b"\0")
    end = line.find(b"\n")
    nul = line.find(b"\0")
    if end < 0 or 0 <= nul < end:
        end = len(line) - 1
        text = line.lstrip(b" \t")
        # Without a blank or newline, the interpreter's name is longer than the part that was read.
        if not text or (b" " not in text and b"\t" not in text and b"\0" not in text):
            raise LinuxError(ENOEXEC)
    line = line[:end].rstrip(b" \t")
    text = line.lstrip(b" \t")
    if not text:
        raise LinuxError(ENOEXEC)
    text = text.split(b"\0", 1)[0]
    space = -1
    for index in range(len(text)):
        if text[index] in (32, 9):
            space = index
            break
    if space < 0:
        return text, b""
    return text[:space], text[space:].strip(b" \t")


def release_image(image: ExecImage) -> None:
    """Drop the references that `prepare` took."""
    image.main.file.put()
    if image.interpreter is not None:
        image.interpreter.file.put()


def argument_room(task: Task) -> int:
    """Bytes that the strings and their pointers may take: a quarter of the stack limit (fs/exec.c)."""
    limit = task.group.rlimit(RLIMIT_STACK)
    return max(131072, min((8 << 20) * 3 // 4, limit // 4 if limit >= 0 else 1 << 40))


def begin_exec(
    task: Task,
    path: Path,
    name: bytes,
    contents: StackContents,
    *,
    is_unreachable: bool = False,
) -> int:
    """Replace the program of `task`; RESUME once there is no way back.  Raises LinuxError before that.

    `contents` were made for `new_stack`, and all of their pointers placed.
    """
    kernel = task.kernel
    image = prepare(task, kernel, path, name, contents.argv.first, is_unreachable=is_unreachable)
    if image.is_doomed():
        release_image(image)
        do_group_exit(task.group, status_signaled(SIGSEGV, core_flag(task.group, SIGSEGV)))
        return DEAD
    try:
        process = _blank_process(task)
        thread = process.main_thread()
        mm = AddressSpace(process, kernel.platform.min_address(), kernel.platform.max_address())
        # A tracer shall see the text as it is
        mm.is_patching = kernel.is_patching and not task.trace.needs_full_frame
        mm.mdwe = task.mm.inherited_mdwe()
        mm.is_thp_disabled = task.mm.is_thp_disabled
        mm.is_mergeable = task.mm.is_mergeable
        mm.coredump_filter = task.mm.coredump_filter
        try:
            _map_image(task, mm, thread, image, contents.top)
            gained = exec_credentials(task, image.path)
            _fill_image(task, mm, thread, image, contents, gained)
        except BaseException:
            abandon(mm, thread)
            raise
    finally:
        release_image(image)
    order = ExecWait(image, mm, thread, gained)
    if kernel.tracing is not None and len(task.group.tasks) > 1 and kernel.tracing.exec_waits(task):
        task.group.exec_turn.begin(task)
        return block_on_time(task, order)
    return order.commit(task)


def abandon(mm: AddressSpace, thread: HostThread) -> None:
    """Undo the preparation of a blank process whose program is not started."""
    mm.process.kill()
    mm.release()
    thread.discard()


class ExecWait(Blocked):
    """An execve whose image is ready; it waits while a tracer looks at the ends of the other threads."""

    def __init__(
        self, image: ExecImage, mm: AddressSpace, thread: HostThread, gained: ExecCredentials
    ) -> None:
        super().__init__()
        self.image: ExecImage = image
        self.mm: AddressSpace = mm
        self.thread: HostThread = thread
        self.gained: ExecCredentials = gained
        self.is_committed: bool = False

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        tracing = task.kernel.tracing
        if tracing is not None and tracing.exec_waits(task):
            return BLOCKED
        self.is_committed = True
        end_wait(task, self)  # a tracer's stop may follow
        return self.commit(task)

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED  # TASK_KILLABLE

    def finished(self, task: TaskBase) -> None:
        assert isinstance(task, Task)
        if not self.is_committed:
            abandon(self.mm, self.thread)
        task.group.exec_turn.end(task)

    def commit(self, task: Task) -> int:
        """Past the point of no return: RESUME, or BLOCKED in a tracer's stop."""
        self.is_committed = True
        task.group.exec_turn.commit()
        return _commit(task, self.image, self.mm, self.thread, self.gained)


def _commit(
    task: Task, image: ExecImage, mm: AddressSpace, thread: HostThread, gained: ExecCredentials
) -> int:
    old_tid, tracee = task.tid, task.tracee
    if tracee is not None:
        old_tid = pid_in(tracee.tracer.pid_ns, old_tid)  # now: the number may be given up
    kill_other_threads(task)
    detach_address_space(task)
    _install(task, mm, thread)
    _reset_for_exec(task, image, gained)
    return CloseMarked(old_tid).close_some(task)


class CloseMarked(Blocked):
    """The closing of many descriptors by execve, in slices, before the new program runs."""

    def __init__(self, old_tid: int) -> None:
        super().__init__()
        self.old_tid: int = old_tid  # what a tracer knows it by
        self.at: int = 0

    def close_some(self, task: Task) -> int:
        """RESUME at the end, else BLOCKED."""
        if self.at >= 0:
            self.at, files = task.files.take_marked(self.at, FEW)
            for file in files:
                task.files.closed(task, file)
            if self.at >= 0:
                return next_slice(task, self)
        tracing = task.kernel.tracing
        if task.tracee is None or tracing is None:
            return RESUME
        if task.blocked is self:
            end_wait(task, self)  # a tracer's stop follows
        return tracing.execed(task, self.old_tid)

    def retry(self, task: TaskBase) -> int:
        assert isinstance(task, Task)
        return self.close_some(task)

    def interrupted(self, task: TaskBase) -> int:
        return BLOCKED  # past the point of no return


def _blank_process(task: Task) -> HostProcess:
    """A process for the new image.  Raises LinuxError(EAGAIN) when the platform is out of descriptors or memory."""
    try:
        return task.kernel.platform.new_process(task.group.container.family[0])
    except OSError:
        raise LinuxError(EAGAIN) from None


def begin_first_exec(task: Task, path: Path, name: bytes, argv: list[bytes], envp: list[bytes]) -> None:
    """Start the first program in the blank process that `task` was made with.  Raises LinuxError."""
    kernel = task.kernel
    contents = StackContents(packed(argv or [b""]), packed(envp), name, new_stack(task))
    while contents.place_some():
        pass
    image = prepare(task, kernel, path, name, contents.argv.first)
    if image.is_doomed():
        release_image(image)
        raise LinuxError(ENOEXEC)
    try:
        _map_image(task, task.mm, task.thread, image, contents.top)
        gained = exec_credentials(task, image.path)
        _fill_image(task, task.mm, task.thread, image, contents, gained)
    finally:
        release_image(image)
    _install(task, task.mm, task.thread)
    _reset_for_exec(task, image, gained)
    _at, files = task.files.take_marked(0, task.files.size)
    for file in files:
        task.files.closed(task, file)
    task.args.nr = SYS_execve
    task.enter(GUEST)
    task.thread.resume()


def _install(task: Task, mm: AddressSpace, thread: HostThread) -> None:
    task.mm = mm
    task.thread = thread
    task.mem = UserMemory(thread, mm)
    if task.trace.needs_full_frame:
        thread.set_patched(False)
    task.kernel.by_thread[thread.ident()] = task


def new_stack(task: Task) -> int:
    """Where the stack of its next program ends."""
    is_random = not task.personality & ADDR_NO_RANDOMIZE
    return choose_stack(task.kernel.platform.max_address(), is_random=is_random)


def _map_image(task: Task, mm: AddressSpace, thread: HostThread, image: ExecImage, stack_top: int) -> None:
    """Queue every mapping of the new image on the blank process."""
    kernel = task.kernel
    is_random = not task.personality & ADDR_NO_RANDOMIZE
    map_stack(
        mm,
        thread,
        stack_top,
        stack_bytes_for_limit(task.group.rlimit(RLIMIT_STACK), task.group.rlimit(RLIMIT_AS)),
        is_executable=image.main.is_stack_executable,
        is_random=is_random,
    )
    main = image.main
    base = 0
    if main.is_dyn:
        if image.interpreter is not None:
            # ELF_ET_DYN_BASE: two thirds of the address space, with 28 bits of randomness below a page.
            base = 0x555555554000 + (kernel_random(28) << 12 if is_random else 0)
    if main.is_overlaid:
        mm.is_patching = False  # patched text would not respect overlapping segments
    place_image(mm, main, base)
    end = map_segments(task, mm, thread, main)
    _mark_sections(mm, main)
    interpreter = image.interpreter
    if interpreter is not None:
        place_image(mm, interpreter, 0)
        map_segments(task, mm, thread, interpreter)
    else:
        # Other programs' files are data to a static program: an emulator such as valgrind reads their text, and keeps
        # its own list of mappings, in which a tail would be unexpected.
        mm.is_patching = False
    for tail in mm.tails.values():
        if tail.start == page_up(end):
            end = tail.end
    brk = page_up(end)
    if is_random and not (main.is_dyn and interpreter is None):
        brk += kernel_random(12) << 12
    if mm.overlaps(brk, brk + 4096):
        brk = page_up(end)
    mm.start_brk = mm.brk = brk
    thread.queue_keep_only(kernel.programs.find(task, image.path).identities(task))
    vdso, vdso_length = kernel.platform.vdso()
    mm.vdso_start, mm.vdso_end = vdso, vdso + vdso_length


def _mark_sections(mm: AddressSpace, image: Image) -> None:
    """Where code and data begin and end, as load_elf_binary has it."""
    starts = [segment.vaddr for segment in image.segments if segment.flags & 1]
    ends = [segment.vaddr + segment.filesz for segment in image.segments if segment.flags & 1]
    last = image.segments[-1]
    mm.start_code = image.base + min(starts, default=0)
    mm.end_code = image.base + max(ends, default=0)
    mm.start_data = image.base + last.vaddr
    mm.end_data = image.base + last.vaddr + last.filesz


def kernel_random(bits: int) -> int:
    """`bits` random bits."""
    import os

    return int.from_bytes(os.urandom((bits + 7) // 8), "little") & ((1 << bits) - 1)


def _auxv(task: Task, mm: AddressSpace, image: ExecImage, gained: ExecCredentials) -> list[tuple[int, int]]:
    kernel, main, creds = task.kernel, image.main, gained.creds
    interpreter = image.interpreter
    phdr = 0
    for segment in main.segments:
        if segment.offset <= main.phoff < segment.offset + segment.filesz:
            phdr = main.base + segment.vaddr + main.phoff - segment.offset
            break
    auxv: list[tuple[int, int]] = []
    if mm.vdso_start:
        auxv.append((33, mm.vdso_start))
    auxv.append((51, kernel.facts.min_sigstack_bytes))
    auxv += [
        (16, kernel.facts.hwcap),
        (6, 4096),
        (17, 100),
        (3, phdr),
        (4, 56),
        (5, main.phnum),
        (7, interpreter.base if interpreter is not None else 0),
        (8, 0),
        (9, main.base + main.entry),
        (11, creds.show_uid(creds.uid)),
        (12, creds.show_uid(creds.euid)),
        (13, creds.show_gid(creds.gid)),
        (14, creds.show_gid(creds.egid)),
        (23, int(gained.is_secure)),  # AT_SECURE
        (26, kernel.facts.hwcap2),
    ]
    return auxv


def _fill_image(
    task: Task,
    mm: AddressSpace,
    thread: HostThread,
    image: ExecImage,
    contents: StackContents,
    gained: ExecCredentials,
) -> None:
    """Order the contents of the new areas, which are written once those are mapped, and set the first registers."""
    main, interpreter = image.main, image.interpreter
    contents.head = image.head
    sp, stack = build_stack(mm, contents, _auxv(task, mm, image, gained))
    thread.write(sp, stack)
    for part in (main, interpreter):
        if part is not None:
            for addr, length in part.zeroes:
                thread.write(addr, bytes(length))
    regs = Registers()
    entry = interpreter.base + interpreter.entry if interpreter is not None else main.base + main.entry
    regs.pc = entry & 0xFFFFFFFFFFFFFFFF  # a header may say anything
    regs.sp = sp
    thread.set_regs(regs)


def _reset_for_exec(task: Task, image: ExecImage, gained: ExecCredentials) -> None:
    """begin_new_exec and setup_new_exec (fs/exec.c): what execve resets; the new credentials."""
    group = task.group
    handlers = SignalHandlers()
    for signo in range(1, 65):
        if group.handlers.actions[signo].handler == 1:
            handlers.actions[signo] = SigAction(1)
    group.handlers = handlers
    task.altstack = AltStack(0, 0, SS_DISABLE)
    task.comm = image.comm
    task.exit_words.forget()
    task.restart = None
    group.exe.set(image.path)
    group.exe.has_execed = True
    group.exe.program = task.kernel.programs.find(task, image.path)
    group.exit_signal = 17
    creds = gained.creds
    is_readable = image.path.inode().permission(task, MAY_READ)
    group.is_dumpable = is_readable and creds.euid == creds.uid and creds.egid == creds.gid
    if gained.is_secure:
        task.pdeath_signal = 0
    if gained.has_gained:
        task.personality &= ~_PER_CLEAR_ON_SETID
    install_creds(task, creds)
    task.mm_user_ns = creds.user_ns
    while not is_readable and task.mm_user_ns is not None:
        inode = image.path.inode()
        if task.mm_user_ns.has_ids(inode.uid, inode.gid):
            break
        task.mm_user_ns = task.mm_user_ns.parent  # no process of that namespace may inspect it
    for hook in task.kernel.hooks.at_exec.values():
        hook(task)
    if task.files.users > 1:
        task.files.users -= 1
        task.files = task.files.clone()


def lookup_for_exec(task: Task, start: Path | None, name: bytes) -> Path:
    """The path to execute.  Raises LinuxError(ENOENT …)."""
    if not name:
        raise LinuxError(ENOENT)
    return path_lookup(task, start, name, 1)

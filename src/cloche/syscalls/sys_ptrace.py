"""ptrace(2): kernel.ptrace does the work."""

from cloche.kernel.args import Args, to_i32, to_u64
from cloche.kernel.ptrace.requests import ptrace
from cloche.kernel.task import Task


def sys_ptrace(task: Task, args: Args) -> int:
    """ptrace(2), the raw call: PEEK requests store the word at `data`."""
    return ptrace(task, args.a0, to_i32(args.a1), to_u64(args.a2), to_u64(args.a3))

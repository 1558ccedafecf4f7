"""Writes the C code that is made from Python: the constants of `platform/layout.py`, and for each function in
`platform/_native.pyi` its prototype and the code between Python and it.  setup.py and build.py run this.

A function's parameter types state conditions, which are so checked in one place (see `_native.pyi`):

    Thread    there is such a thread          Process   there is such a process
    Stopped   ... and it is stopped           Buffer    bytes-like: its address and length
    Framed    ... with a signal frame         int, U64, Int   int64_t, uint64_t, int; object: as it is

`*names: int` are the rest of the arguments as they came. `-> None` is void in C, other results are converted; a
failure raises by `fail(errno)`.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "cloche" / "platform"

HANDLES = {
    "Thread": ("struct thr *", "thread_of"),
    "Stopped": ("struct thr *", "stopped_of"),
    "Framed": ("struct thr *", "framed_of"),
    "Process": ("struct prc *", "process_of"),
}
SCALARS = {"int": "int64_t ", "U64": "uint64_t ", "Int": "int "}
RESULTS = {
    "None": ("void ", ""),
    "bool": ("bool ", "PyBool_FromLong"),
    "int": ("int64_t ", "PyLong_FromLongLong"),
    "U64": ("uint64_t ", "PyLong_FromUnsignedLongLong"),
}
LONG = ("_BASE", "_SIZE", "_ADDRESS")


def constants() -> str:
    """The header: of addresses and sizes C takes 64 bits without a sign, assembly takes no suffix."""
    sys.path.insert(0, str(ROOT / "src"))
    from cloche.platform import layout

    lines = [
        "#ifdef __ASSEMBLER__",
        "#define LONG(value) value",
        "#else",
        "#define LONG(value) value##ULL",
        "#endif",
    ]
    for name, value in vars(layout).items():
        if name.isupper() and not name.startswith(("_", "MAP_")) and isinstance(value, int):
            is_long = value >> 31 or name.endswith(LONG)
            lines.append(f"#define {name} " + (f"LONG({value:#x})" if is_long else f"{value:#x}"))
    return "\n".join(lines) + "\n"


def offsets() -> str:
    """Assertions that constants are the offsets of the fields which they are named after."""
    from cloche.platform import layout

    return "".join(
        f'_Static_assert(offsetof(struct {struct}, {name}) == {struct.upper()}_{name.upper()}, "{struct}: {name}");\n'
        for struct, names in layout.FIELDS.items()
        for name in names
    )


def kind_of(node: ast.expr | None) -> str:
    return ast.unparse(node) if node is not None else "None"


def function(node: ast.FunctionDef) -> tuple[str, str]:
    """The prototype of one function, and its wrapper."""
    parameters = [*node.args.posonlyargs, *node.args.args]
    types: list[str] = []
    values: list[str] = []
    checks: list[str] = []
    before: list[str] = []
    after: list[str] = []
    for at, parameter in enumerate(parameters):
        kind = kind_of(parameter.annotation)
        if kind in HANDLES:
            ctype, convert = HANDLES[kind]
            before.append(f"    {ctype}a{at};")
            checks.append(f"!(a{at} = {convert}(args[{at}]))")
            values.append(f"a{at}")
        elif kind == "Buffer":
            ctype = "const Py_buffer *"
            before.append(f"    Py_buffer a{at};")
            checks.append(f"PyObject_GetBuffer(args[{at}], &a{at}, PyBUF_SIMPLE) < 0")
            after.append(f"    PyBuffer_Release(&a{at});")
            values.append(f"&a{at}")
        elif kind == "object":
            ctype = "PyObject *"
            values.append(f"args[{at}]")
        else:
            ctype = SCALARS[kind]
            values.append(f"({ctype.strip()})PyLong_AsUnsignedLongLongMask(args[{at}])")
        types.append(ctype)
    count = len(parameters)
    if node.args.vararg:
        types += ["PyObject *const *", "Py_ssize_t "]
        values += [f"args + {count}", f"count - {count}"]
        wrong = f"count < {count}"
    else:
        wrong = f"count != {count}"
    result, convert = RESULTS.get(kind_of(node.returns), ("PyObject *", "PyObject"))
    prototype = f"{result}{node.name}({', '.join(kind.strip() for kind in types) or 'void'});"
    call = f"{node.name}({', '.join(values)})"
    formal = "(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)"
    lines = [f"static PyObject *py_{node.name}{formal}", "{"]
    lines += before
    checks.insert(0, f"({wrong} && wrong_count({count}))")
    lines.append(f"    if ({' || '.join(checks)})")
    lines += ["        return NULL;", "    (void)args;"]
    if convert == "PyObject":
        lines += [f"    PyObject *result = {call};", *after, "    return result;", "}"]
    else:
        lines += [f"    {call};" if not convert else f"    {result}result = {call};", *after]
        lines += ["    if (PyErr_Occurred())", "        return NULL;"]
        lines += ["    Py_RETURN_NONE;" if not convert else f"    return {convert}(result);", "}"]
    return prototype, "\n".join(lines) + "\n"


def calls() -> tuple[str, str]:
    """Prototypes, and wrappers with the module's table."""
    tree = ast.parse((SOURCE / "_native.pyi").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    made = [function(node) for node in functions]
    rows = [
        f'    {{"{node.name}", (PyCFunction)(void (*)(void))py_{node.name}, METH_FASTCALL, NULL}},'
        for node in functions
    ]
    table = "\n".join(["static PyMethodDef methods[] = {", *rows, "    {NULL, NULL, 0, NULL},", "};"])
    head = "#include <Python.h>\n#include <stdbool.h>\n#include <stdint.h>\nstruct thr;\nstruct prc;\n"
    return head + "\n".join(prototype for prototype, _wrapper in made) + "\n", "\n".join(
        [*(wrapper for _prototype, wrapper in made), table, ""]
    )


def write(target: Path, text: str) -> None:
    """Write a file only if its text has changed: builds compare its time."""
    text = "/* Made by csrc/generate.py. */\n" + text
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prototypes, wrappers = calls()
    write(folder / "layout.h", constants())
    write(folder / "offsets.h", offsets())
    write(folder / "calls.h", prototypes)
    write(folder / "wrappers.h", wrappers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The direction of imports, over the syntax trees of the sources (ARCHITECTURE.md, "direction of
dependence").
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "src" / "cloche"

# The packages and modules that each package may import besides itself. Written out, so that a change of it is a
# change to review. How every process of a sandbox confines itself; these modules of boot know nothing of the sentry.
CONFINEMENT: Final = [
    "platform.hostsys",
    "boot.confine",
    "boot.idmaps",
    "boot.part",
    "boot.seccomp",
    "boot.seccomp_interpreter",
    "boot.seccomp_gofer",
    "boot.seccomp_egress",
    "boot.seccomp_connector",
    "boot.seccomp_analyst",
    "boot.seccomp_netns",
]
SENTRY: Final = ["abi", "arch", "platform", "mm", "vfs", "kernel"]
ALLOWED: Final[dict[str, list[str]]] = {
    "abi": [],
    "arch": ["abi"],
    "platform": ["abi", "arch"],
    "mm": ["abi", "arch", "platform"],
    "vfs": ["abi", "arch", "platform", "mm"],
    "kernel": ["abi", "arch", "platform", "mm", "vfs"],
    "fs": [*SENTRY, "wire"],
    "net": [*SENTRY, "wire"],
    "syscalls": [*SENTRY, "fs", "net"],
    "boot": [*SENTRY, "fs", "net", "syscalls", "wire"],
    "wire": ["abi"],
    "library": ["platform._sys"],  # where compiled modules come from
    "analyst": ["abi", "wire", *CONFINEMENT],
    "gofer": ["abi", "wire", "analyst.cache", "analyst.writers", *CONFINEMENT],
    "egress": ["abi", "wire", *CONFINEMENT],
    "netns": ["abi", "wire", *CONFINEMENT],
    "runtime": ["abi", "wire", "platform.hostsys"],
    "images": [
        "abi",
        "wire",
        "platform.hostsys",
    ],  # reads and writes others' files; no parts of a sandbox
    # A program that uses it contains no part of a sandbox: it starts the process that becomes the monitor, and talks
    # to it.
    "sdk": ["abi", "wire", "runtime", "boot.spawn"],
    "serve": ["sdk", "egress.certificates"],  # the packages of E2B in front of it
    "integrations": ["sdk"],  # each beside one package of others
    # The commands are thin: they start the servers and print what the parts know.
    "cli": [
        *SENTRY,
        "fs",
        "net",
        "syscalls",
        "boot",
        "wire",
        "gofer",
        "analyst",
        "egress",
        "runtime",
        "images",
        "sdk",
        "serve",
        "integrations",
    ],
    # The runtime that engines call: its monitor launches sandboxes, as the commands do.
    "oci": [
        *("abi", "arch", "platform.hostsys", "boot", "wire"),
        *(
            "egress.hosts",
            "egress.netfile",
            "egress.policy",
            "egress.trust",
        ),  # rules of containers, which egress then reads again
        *("cli.net", "cli.client"),  # the verb `net`, which is the same
        "runtime.cgroups",  # reading and writing the files of control groups
        "library",  # short verbs do without the compiled modules
    ],
}

# Single modules that may import more, because they run in no server: the keeper forks the gofer, the
# analyst and the sentry.
LAUNCHERS: Final = {
    "cloche.boot.keeper": [
        "gofer.launch",
        "gofer.nodes",
        "analyst.serve",
        "egress.launch",
        "netns.connector",
        "netns.launch",
        "runtime.cgroups",
        "runtime.records",
    ],
    "cloche.boot.attaching": ["gofer.nodes"],
}

# C extensions, each with the only packages that may import it.
EXTENSIONS: Final = {
    "cloche.platform._native": ("platform",),
    "cloche.platform._sys": ("platform", "library"),
}
FORBIDDEN: Final = {"ctypes", "cffi", "_ctypes"}


def module_name(path: Path, source: Path) -> str:
    parts = ["cloche", *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, name: str, modules: set[str]) -> set[str]:
    """The modules that a file imports, wherever in it: also in functions and for type checking only."""
    out: set[str] = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                out.add(full if full in modules or full in EXTENSIONS else base)
    return out


@cache
def graph(source: Path) -> dict[str, set[str]]:
    paths = {module_name(path, source): path for path in sorted(source.rglob("*.py"))}
    return {name: imports(path, name, set(paths)) for name, path in paths.items()}


def violations(modules: dict[str, set[str]]) -> list[str]:
    """Every import against the rules, as text."""
    out = []
    for name, targets in sorted(modules.items()):
        parts = name.split(".")
        package = parts[1] if len(parts) > 1 else ""
        for target in sorted(targets):
            if target.split(".")[0] in FORBIDDEN:
                out.append(f"{name} imports {target}: nobody does")
            if not target.startswith("cloche."):
                continue
            if target in EXTENSIONS and package not in EXTENSIONS[target]:
                out.append(f"{name} imports {target}: only {' and '.join(EXTENSIONS[target])} may")
            inner = target.removeprefix("cloche.")
            if package == "" or inner.split(".")[0] == package:
                continue
            if package not in ALLOWED:
                out.append(f"{name}: the package {package} has no rule")
                continue
            allowed = ALLOWED[package] + LAUNCHERS.get(name, [])
            if not any(inner == part or inner.startswith(part + ".") for part in allowed):
                out.append(f"{name} imports {target}: {package} may not")
    return out


def cycles(modules: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other (Tarjan's strongly connected components, iterative)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []
    for root in sorted(modules):
        if root in index:
            continue
        work = [(root, iter(sorted(modules[root] & modules.keys())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        while work:
            name, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    work.append((target, iter(sorted(modules[target] & modules.keys()))))
                    break
                if target in stack:
                    low[name] = min(low[name], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == index[name]:
                    group = stack[stack.index(name) :]
                    del stack[stack.index(name) :]
                    if len(group) > 1 or name in modules[name]:
                        out.append(sorted(group))
    return out


def test_imports_point_left() -> None:
    modules = graph(SOURCE)
    assert len(modules) > 30
    assert violations(modules) == []


def test_only_commands_launch() -> None:
    modules = graph(SOURCE)
    users = {name.split(".")[1] for name, targets in modules.items() if "cloche.boot.launch" in targets}
    assert users <= {"cli", "runtime", "sdk", "oci"}


def test_only_the_choice_names_a_platform() -> None:
    """Platforms are behind platform/interface.py: no other package imports one, or its parts."""
    common = {"", ".interface", ".choose", ".hostsys", ".shared_pages", ".slow", "._sys"}
    for name, targets in graph(SOURCE).items():
        found = {target.removeprefix("cloche.platform") for target in targets if "cloche.platform" in target}
        assert name.startswith("cloche.platform.") or found <= common, name


def test_one_module_alone_makes_any_host_call() -> None:
    """`_sys.call` believes what it is told: hostsys packs its structs."""
    users = {name for name, targets in graph(SOURCE).items() if "cloche.platform._sys" in targets}
    assert users <= {"cloche.platform.hostsys", "cloche.library"}
    taken = [
        alias.name
        for node in ast.walk(ast.parse((SOURCE / "library.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "cloche.platform._sys"
        for alias in node.names
    ]
    assert taken == ["make_module"]


def test_no_cycles() -> None:
    assert cycles(graph(SOURCE)) == []


def test_confinement_stands_alone() -> None:
    modules = graph(SOURCE)
    allowed = {f"cloche.{name}" for name in CONFINEMENT}
    for name in CONFINEMENT:
        for target in modules.get(f"cloche.{name}", set()):
            constants = target.startswith(("cloche.abi.", "cloche.arch."))
            assert constants or target in allowed or target in EXTENSIONS or not target.startswith("cloche.")


def test_the_rules_have_no_cycle_themselves() -> None:
    rules = {package: {target.split(".")[0] for target in targets} for package, targets in ALLOWED.items()}
    assert cycles(rules) == []


def test_the_checker_sees(tmp_path: Path) -> None:
    files = {
        "abi/a.py": "import ctypes\nfrom cloche.kernel import task\n",
        "kernel/__init__.py": "",
        "kernel/task.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import b\n",
        "kernel/b.py": "def f():\n    import cloche.kernel.task\n    from cloche.platform import _native\n",
        "gofer/g.py": "from cloche.platform.hostsys import x\nfrom cloche.platform.interface import y\n",
        "new/n.py": "import cloche.abi.a\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    modules = graph(tmp_path)
    assert violations(modules) == [
        "cloche.abi.a imports cloche.kernel.task: abi may not",
        "cloche.abi.a imports ctypes: nobody does",
        "cloche.gofer.g imports cloche.platform.interface: gofer may not",
        "cloche.kernel.b imports cloche.platform._native: only platform may",
        "cloche.new.n: the package new has no rule",
    ]
    assert cycles(modules) == [["cloche.kernel.b", "cloche.kernel.task"]]

"""Which classes can be reached from the kernel, over the syntax trees of the sources, and what their fields are.

A field of a base class may hold any of its subclasses, so these are reached with it.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "src" / "cloche"
PACKAGES: Final = (
    "abi",
    "arch",
    "platform",
    "mm",
    "vfs",
    "kernel",
    "fs",
    "net",
    "syscalls",
    "wire",
    "boot",
    "light",
)
# names of fields that hold numbers of descriptors
DESCRIPTOR: Final = re.compile(r"^(?!max_)(.*_)?(mem)?fds?_?$")
DATA: Final = frozenset({"int", "str", "bytes", "bytearray", "bool", "float", "None", "i64"})
CONTAINERS: Final = frozenset(
    {"list", "dict", "tuple", "set", "frozenset", "deque", "Final", "Optional", "OrderedDict", "ClassVar"}
)


class Field:
    """An annotated attribute."""

    def __init__(self, name: str, annotation: ast.expr) -> None:
        self.name: str = name
        self.annotation: ast.expr = annotation


class Class:
    """A class of the sources."""

    def __init__(self, module: str, node: ast.ClassDef) -> None:
        self.module: str = module
        self.node: ast.ClassDef = node
        self.name: str = f"{module}.{node.name}"
        self.fields: list[Field] = list(_fields(node))
        self.subclasses: list[Class] = []
        self.bases: list[Class] = []


class Module:
    """The meanings of the names of a module."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name: str = name
        self.tree: ast.Module = tree
        self.imports: dict[str, tuple[str, str]] = {}
        self.aliases: dict[str, ast.expr] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    origin = node.module.removeprefix("cloche.").removeprefix("cloche")
                    self.imports[alias.asname or alias.name] = (origin, alias.name)
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self.aliases[statement.targets[0].id] = statement.value


def _fields(node: ast.ClassDef) -> list[Field]:
    found: dict[str, Field] = {}
    for statement in ast.walk(node):
        if not isinstance(statement, ast.AnnAssign):
            continue
        target = statement.target
        if (
            isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
        ):
            found.setdefault(target.attr, Field(target.attr, statement.annotation))
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found.setdefault(statement.target.id, Field(statement.target.id, statement.annotation))
    return list(found.values())


@cache
def _sources() -> tuple[dict[str, Module], dict[str, Class]]:
    """Every module and class, by name, read once."""
    modules: dict[str, Module] = {}
    classes: dict[str, Class] = {}
    for package in PACKAGES:
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
            module = modules[name] = Module(name, ast.parse(path.read_text()))
            for node in module.tree.body:
                if isinstance(node, ast.ClassDef):
                    made = Class(name, node)
                    classes[made.name] = made
    for each in classes.values():
        for base in each.node.bases:
            found = find(modules, classes, modules[each.module], base)
            if found is not None:
                each.bases.append(found)
                found.subclasses.append(each)
    return modules, classes


def find(
    modules: dict[str, Module], classes: dict[str, Class], module: Module, name: ast.expr
) -> Class | None:
    """The class that a name stands for."""
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
        origin, imported = module.imports.get(name.value.id, ("", ""))
        return classes.get(f"{origin}.{imported}.{name.attr}".lstrip("."))
    if not isinstance(name, ast.Name):
        return None
    own = classes.get(f"{module.name}.{name.id}")
    if own is not None:
        return own
    origin, imported = module.imports.get(name.id, ("", ""))
    other = modules.get(origin)
    if other is None or other is module:
        return None
    return find(modules, classes, other, ast.Name(imported))


class Walk:
    """The walk from `kernel.task.Kernel`.  `problems` are fields that are no data: "module.Class.field" -> why."""

    def __init__(self, declared: dict[str, str]) -> None:
        self.declared: dict[str, str] = declared
        self.used: set[str] = set()  # names in declarations
        self.modules, self.classes = _sources()
        self.reached: dict[str, Class] = {}
        self.problems: dict[str, str] = {}

    def run(self) -> None:
        """Walk."""
        todo = [self.classes["kernel.task.Kernel"]]
        while todo:
            each = todo.pop()
            if each.name in self.reached:
                continue
            if each.name in self.declared:
                self.used.add(each.name)
                continue
            self.reached[each.name] = each
            todo += each.subclasses + each.bases
            for field in each.fields:
                label = f"{each.name}.{field.name}"
                if label in self.declared:
                    self.used.add(label)
                    continue
                if DESCRIPTOR.search(field.name) and "int" in ast.unparse(field.annotation):
                    self.problems[label] = "a descriptor's number"
                for found in self._types(each, label, field.annotation):
                    todo.append(found)

    def _types(self, owner: Class, label: str, annotation: ast.expr) -> list[Class]:
        """The classes in an annotation; notes what is no data."""
        module = self.modules[owner.module]
        return self._visit(module, label, annotation)

    def _visit(self, module: Module, label: str, node: ast.expr) -> list[Class]:
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                return self._visit(module, label, ast.parse(node.value, mode="eval").body)
            return []
        if isinstance(node, ast.BinOp):
            return self._visit(module, label, node.left) + self._visit(module, label, node.right)
        if isinstance(node, ast.Tuple):
            return [found for part in node.elts for found in self._visit(module, label, part)]
        if isinstance(node, ast.Subscript):
            if isinstance(node.value, ast.Name) and node.value.id in CONTAINERS:
                return self._visit(module, label, node.slice)
            self.problems[label] = ast.unparse(node)
            return []
        found = find(self.modules, self.classes, module, node)
        if found is not None:
            return [found]
        if isinstance(node, ast.Name):
            if node.id in DATA or node.id in CONTAINERS:
                return []
            alias = module.aliases.get(node.id)
            if alias is not None:
                return self._visit(module, label, alias)
            origin, imported = module.imports.get(node.id, ("", ""))
            other = self.modules.get(origin)
            if other is not None and imported in other.aliases:
                return self._visit(other, label, other.aliases[imported])
        self.problems[label] = ast.unparse(node)
        return []

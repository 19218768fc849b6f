"""Adapters are judged by what they were trained on, go off with a note, and come on again on the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sam_migrate.domain.generation import Adapter
from sam_migrate.errors import BadFileError
from sam_migrate.sam.adapters import (
    current_verdicts,
    files,
    forward_fields,
    judge,
    read_adapters,
    return_fields,
    safe_name,
)
from sam_migrate.sam.configuration import REGISTRY, plan_forward

if TYPE_CHECKING:
    from sam_migrate.demo.home import SampleHome
    from sam_migrate.domain.engine import ServedEngine
    from sam_migrate.domain.generation import AdapterVerdict
    from sam_migrate.sam.home import SamHome

AT = "2025-06-01T10:00:00"
LATER = "2025-06-02T10:00:00"
ANA, BEN = "ana_20250101_000000", "ben_20250102_000000"


def _adapter(base: str) -> Adapter:
    return Adapter(model_id="a", user_id="u", base_model=base, directory="d", is_active=True)


def _forward(home: SamHome, engine: ServedEngine) -> tuple[AdapterVerdict, ...]:
    live = home.document(REGISTRY)
    fields, verdicts = forward_fields(live, engine, migration_id="m1", at_local_iso=AT)
    home.edit(plan_forward(live, fields, document=REGISTRY))
    return verdicts


def _back(home: SamHome, engine: ServedEngine, target: tuple[AdapterVerdict, ...]) -> tuple[AdapterVerdict, ...]:
    live = home.document(REGISTRY)
    fields, verdicts = return_fields(live, engine, target=target, migration_id="m2", at_local_iso=LATER)
    home.edit(plan_forward(live, fields, document=REGISTRY))
    return verdicts


def _store(sample: SampleHome, registry: dict[str, Any]) -> None:
    (sample.path / "models/personalized/model_registry.json").write_text(json.dumps(registry, indent=2))


def _train(home: SamHome, sample: SampleHome, model_id: str, user: str, base: str) -> None:
    """Register and activate an adapter as SAM does."""
    registry = home.document(REGISTRY)
    for entry in registry["models"].values():
        entry["is_active"] &= entry["user_id"] != user
    entry = {"model_id": model_id, "user_id": user, "base_model": base, "model_path": "x", "is_active": True}
    registry["models"][model_id] = entry
    registry["active_models"][user] = model_id
    _store(sample, registry)


@pytest.mark.parametrize(
    ("base", "verdict"),
    [
        ("makers/new-1b", "compatible"),
        ("Makers/New-1B ", "compatible"),
        ("example/new-1b", "compatible"),
        ("example/new-1b-GGUF", "compatible"),
        ("hf.co/example/new-1b-GGUF:Q4_K_M", "compatible"),
        ("https://huggingface.co/makers/new-1b/", "compatible"),
        ("makers/new-1b-GGUF", "incompatible"),
        ("makers/new-1b:Q4", "unknown"),
        ("makers/old-1b", "incompatible"),
        ("others/new-1b", "incompatible"),
        ("", "unknown"),
        ("new-1b", "unknown"),
        ("/models/new-1b", "unknown"),
        ("./makers/new-1b", "unknown"),
    ],
)
def test_adapter_is_judged_by_its_base(new_engine: ServedEngine, base: str, verdict: str) -> None:
    """Only the name of the very repository is compatible; another repository is not; the rest is unknown."""
    assert judge(_adapter(base), new_engine)[0] == verdict


def test_unnamed_origin_leaves_doubt(new_engine: ServedEngine) -> None:
    """Where the engine's file does not name its origin, a repository of a like name is unknown, any other is not it."""
    engine = replace(new_engine, base_repositories=())
    assert judge(_adapter("makers/new-1b-instruct"), engine)[0] == "unknown"
    assert judge(_adapter("makers/wholly-other"), engine)[0] == "incompatible"


def test_unfit_adapter_goes_off(home: SamHome, new_engine: ServedEngine) -> None:
    """Both of SAM's records change together, and the note SAM's page looks for is there."""
    verdicts = _forward(home, new_engine)
    registry = home.document(REGISTRY)
    assert registry["models"][ANA]["is_active"] is False
    assert registry["active_models"] == {}
    note = registry["models"][ANA]["training_stats"]["migration_notes"][0]
    assert (note["action"], note["migration_id"], note["timestamp"]) == ("invalidated_by_migration", "m1", AT)
    assert [verdict.active for verdict in verdicts] == [False, False]


def test_inactive_adapter_gets_no_note(home: SamHome, new_engine: ServedEngine) -> None:
    """What was off already is left alone."""
    before = home.document(REGISTRY)["models"][BEN]
    _forward(home, new_engine)
    assert home.document(REGISTRY)["models"][BEN] == before


def test_fitting_adapter_stays(home: SamHome, old_engine: ServedEngine) -> None:
    """An adapter that was trained on the new engine stays on."""
    before = home.document(REGISTRY)
    assert _forward(home, old_engine)[0].active
    assert home.document(REGISTRY) == before


def test_every_users_adapter_goes_off(home: SamHome, sample: SampleHome, new_engine: ServedEngine) -> None:
    """The switch concerns everybody's adapters, also one that only the list of active ones calls on."""
    registry = home.document(REGISTRY)
    registry["active_models"]["ben"] = BEN
    _store(sample, registry)
    _forward(home, new_engine)
    after = home.document(REGISTRY)
    assert after["active_models"] == {}
    assert len(after["models"][BEN]["training_stats"]["migration_notes"]) == 1


def test_switched_off_adapter_comes_back(home: SamHome, old_engine: ServedEngine, new_engine: ServedEngine) -> None:
    """On the way back it is on as before, and its note no longer warns; all else is as it was."""
    before = home.document(REGISTRY)
    target = current_verdicts(before, old_engine)
    _forward(home, new_engine)
    assert _back(home, old_engine, target)[0].active
    after = home.document(REGISTRY)
    notes = after["models"][ANA]["training_stats"].pop("migration_notes")
    assert [note["action"] for note in notes] == ["superseded_by_migration"]
    assert after == before


def test_unknown_adapter_comes_back(
    home: SamHome, sample: SampleHome, old_engine: ServedEngine, new_engine: ServedEngine
) -> None:
    """One of unknown base that was on with the old engine is on with it again."""
    registry = home.document(REGISTRY)
    registry["models"][ANA]["base_model"] = None
    _store(sample, registry)
    target = current_verdicts(registry, old_engine)
    _forward(home, new_engine)
    _back(home, old_engine, target)
    assert home.document(REGISTRY)["active_models"] == {"ana": ANA}


def test_adapter_trained_meanwhile_goes_off(
    home: SamHome, sample: SampleHome, old_engine: ServedEngine, new_engine: ServedEngine
) -> None:
    """One trained on the engine that goes stays on disk and goes off; the old one has its place again."""
    target = current_verdicts(home.document(REGISTRY), old_engine)
    _forward(home, new_engine)
    _train(home, sample, "ana_new", "ana", "makers/new-1b")
    _back(home, old_engine, target)
    after = home.document(REGISTRY)
    assert after["active_models"] == {"ana": ANA}
    assert after["models"]["ana_new"]["is_active"] is False
    assert after["models"]["ana_new"]["training_stats"]["migration_notes"][0]["migration_id"] == "m2"


def test_users_choice_keeps_its_place(
    home: SamHome, sample: SampleHome, old_engine: ServedEngine, new_engine: ServedEngine
) -> None:
    """Where the user put another fitting adapter, the one we switched off stays off."""
    target = current_verdicts(home.document(REGISTRY), old_engine)
    _forward(home, new_engine)
    _train(home, sample, "ana_other", "ana", "makers/old-1b")
    _back(home, old_engine, target)
    after = home.document(REGISTRY)
    assert after["active_models"] == {"ana": "ana_other"}
    assert after["models"][ANA]["is_active"] is False


def test_user_switched_off_stays_off(home: SamHome, old_engine: ServedEngine, new_engine: ServedEngine) -> None:
    """What is off without a note of ours was switched off by the user."""
    target = current_verdicts(home.document(REGISTRY), old_engine)
    _forward(home, new_engine)
    assert [verdict.active for verdict in _back(home, old_engine, target)] == [True, False]
    assert home.document(REGISTRY)["models"][BEN]["is_active"] is False


def test_return_of_return_switches_back(
    home: SamHome, sample: SampleHome, old_engine: ServedEngine, new_engine: ServedEngine
) -> None:
    """Going forward again by a return brings back what the first return switched off."""
    old = current_verdicts(home.document(REGISTRY), old_engine)
    new = _forward(home, new_engine)
    _train(home, sample, "ana_new", "ana", "makers/new-1b")
    _back(home, old_engine, old)
    live = home.document(REGISTRY)
    fields, _ = return_fields(live, new_engine, target=new, migration_id="m3", at_local_iso="2025-06-03T10:00:00")
    home.edit(plan_forward(live, fields, document=REGISTRY))
    assert home.document(REGISTRY)["active_models"] == {"ana": "ana_new"}


@pytest.mark.parametrize(
    "registry",
    [
        {"models": []},
        {"models": {"a": 1}},
        {"models": {"a": {"user_id": 1}}},
        {"models": {"a": {}}},
        {"models": {"a": {"user_id": "u", "model_id": "b"}}},
        {"models": {"a": {"user_id": "u", "is_active": "yes"}}},
        {"models": {"a": {"user_id": "u", "training_stats": {"migration_notes": [1]}}}},
        {"active_models": {"u": 1}},
    ],
    ids=["models", "entry", "user", "no-user", "id", "active", "note", "slot"],
)
def test_bad_registry_is_refused(registry: dict[str, Any]) -> None:
    """A registry of another shape is refused by name."""
    with pytest.raises(BadFileError, match="model_registry"):
        read_adapters(registry)


def test_adapter_files_are_found(home: SamHome, sample: SampleHome) -> None:
    """Every regular file of an adapter is named by adapter and place; links are left out."""
    (sample.path / "models/personalized/ana/job1/passwd").symlink_to("/etc/passwd")
    found = dict(home.adapter_files())
    assert sorted(found) == [
        f"{ANA}/adapter_config.json",
        f"{ANA}/adapter_model.safetensors",
        f"{BEN}/adapter_config.json",
        f"{BEN}/adapter_model.safetensors",
    ]


def test_stray_directory_is_not_an_adapter(home: SamHome, sample: SampleHome) -> None:
    """A registry that names some other directory, or none, copies nothing."""
    adapters = [replace(each, directory=place) for each, place in zip(home.adapters(), ("/", ""), strict=True)]
    assert list(files(sample.path, adapters)) == []


def test_linked_directory_is_not_followed(home: SamHome, sample: SampleHome) -> None:
    """A directory that is a link is left out."""
    (sample.path / "link").symlink_to(sample.path / "models/personalized/ana/job1")
    assert list(files(sample.path, [replace(home.adapters()[0], directory="link")])) == []


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a/b", "a\\b", "c:d", "\ud800", "x" * 300, "end."])
def test_outside_name_is_made_safe(name: str) -> None:
    """No name from outside can lead out of a directory or mean something elsewhere."""
    safe = safe_name(name)
    assert safe.isascii()
    assert not set(safe) & set("/\\:")
    assert not safe.startswith(".")
    assert 0 < len(safe) <= 120


def test_safe_names_stay_apart() -> None:
    """Different names never become one."""
    assert len({safe_name(name) for name in ("a/b", "a\\b", "a_b", ".a_b")}) == 4

"""The configuration goes forward by what is there, and back only where it still is ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sam_migrate.domain.generation import Field, FieldValue
from sam_migrate.sam.configuration import current_fields, engine_fields, owned_paths, plan_forward, plan_return

if TYPE_CHECKING:
    from sam_migrate.demo.home import SampleHome
    from sam_migrate.domain.engine import ServedEngine
    from sam_migrate.sam.home import SamHome

AT = "2025-06-01T10:00:00"


def _new_fields(engine: ServedEngine, live: dict[str, Any]) -> tuple[Field, ...]:
    return engine_fields(engine, model_path="m/new.gguf", at_local_iso=AT, live=live)


def test_engine_fields_are_all_owned(new_engine: ServedEngine) -> None:
    """A new engine gives every field of ours a value, in the order they are declared."""
    assert tuple(field.path for field in _new_fields(new_engine, {})) == owned_paths()


def test_configuration_names_the_engine(home: SamHome, new_engine: ServedEngine) -> None:
    """After the edit the file names the new engine, in the form Ollama understands, beside what else it held."""
    live = home.document("configuration")
    home.edit(plan_forward(live, _new_fields(new_engine, live)))
    after = home.document("configuration")
    assert after["model"] == live["model"] | {
        "transformer_model_name": "hf.co/example/new-1b-GGUF:Q4_K_M",
        "max_context_length": 4096,
    }
    assert after["engine_upgrade"]["downloaded_engines"] == ["old-1b", "new-1b"]
    assert after["engine_upgrade"]["rollback_enabled"] is True
    assert after["retrieval_pipeline"] == live["retrieval_pipeline"]


def test_imported_engine_keeps_ollama_name(new_engine: ServedEngine) -> None:
    """An engine without a repository has no name for Ollama, so the one there is stays."""
    engine = type(new_engine)(**{name: getattr(new_engine, name) for name in new_engine.__slots__} | {"repository": ""})
    live = {"model": {"transformer_model_name": "mine"}}
    fields = {field.path: field.value for field in _new_fields(engine, live)}
    assert fields["model", "transformer_model_name"] == FieldValue(present=True, content="mine")


def test_round_trip_restores_bytes(home: SamHome, sample: SampleHome, new_engine: ServedEngine) -> None:
    """Forward and back again leaves the file as it was, byte for byte."""
    path = sample.path / "sam_config.json"
    before, live = path.read_bytes(), home.document("configuration")
    old, new = current_fields(live), _new_fields(new_engine, live)
    home.edit(plan_forward(live, new))
    assert path.read_bytes() != before
    changes, kept = plan_return(home.document("configuration"), active=new, target=old)
    assert home.edit(changes).kept == kept == ()
    assert path.read_bytes() == before


def test_section_of_ours_vanishes(home: SamHome, sample: SampleHome, new_engine: ServedEngine) -> None:
    """A file without our section is without it again after the way back: stock SAM does not load an undeclared key."""
    path = sample.path / "sam_config.json"
    path.write_text('{"app_name": "SAM"}')
    old, new = current_fields({"app_name": "SAM"}), _new_fields(new_engine, {})
    home.edit(plan_forward(home.document("configuration"), new))
    home.edit(plan_return(home.document("configuration"), active=new, target=old)[0])
    assert "engine_upgrade" not in json.loads(path.read_bytes())


def test_user_value_is_kept(home: SamHome, sample: SampleHome, new_engine: ServedEngine) -> None:
    """What the user changed since the upgrade stays on the way back, and is named."""
    live = home.document("configuration")
    old, new = current_fields(live), _new_fields(new_engine, live)
    home.edit(plan_forward(live, new))
    path = sample.path / "sam_config.json"
    path.write_text(path.read_text().replace('"max_context_length": 4096', '"max_context_length": 2048'))
    changes, kept = plan_return(home.document("configuration"), active=new, target=old)
    home.edit(changes)
    after = home.document("configuration")
    assert [change.path for change in kept] == [("model", "max_context_length")]
    assert after["model"]["max_context_length"] == 2048
    assert after["engine_upgrade"]["active_engine_id"] == "old-1b"


def test_change_after_planning_is_kept(home: SamHome, sample: SampleHome, new_engine: ServedEngine) -> None:
    """A value that changed between the plan and the edit is the user's, too."""
    live = home.document("configuration")
    changes = plan_forward(live, _new_fields(new_engine, live))
    path = sample.path / "sam_config.json"
    path.write_text(path.read_text().replace('"max_context_length": 8192', '"max_context_length": 512'))
    report = home.edit(changes)
    assert [change.path for change in report.kept] == [("model", "max_context_length")]
    assert home.document("configuration")["model"]["max_context_length"] == 512


def test_other_documents_fields_are_left_out(home: SamHome) -> None:
    """A plan for one document leaves the fields of the other alone."""
    field = Field(document="registry", path=("last_updated",), value=FieldValue(present=True, content="x"))
    live = home.document("configuration")
    assert plan_forward(live, [field]) == ()
    assert plan_return(live, active=[], target=[field]) == ((), ())

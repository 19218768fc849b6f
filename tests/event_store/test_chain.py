"""Bodies and hashes, as an auditor without this program would compute them."""

from __future__ import annotations

import hashlib
import json

from event_store import GENESIS, Batch, EventStore, category_of
from tests.event_store.samples import event, fill


def test_body_describes_itself(store: EventStore) -> None:
    """The body is compact JSON that repeats the columns."""
    store.append(Batch(stream="run-1", events=(event("a", payload='{"n":"é"}'),), expected_version=0))
    (record,) = store.read_all()
    assert record.body.decode() == (
        '{"stream":"run-1","version":1,"event_id":"a","type":"ThingDone","schema":1'
        ',"recorded_at":"2026-01-01T00:00:01.000000+00:00","payload":{"n":"é"}}'
    )


def test_body_quotes_names(store: EventStore) -> None:
    """Names with quotation marks and backslashes parse back, and do not hide the payload."""
    name = 'a","payload":{"\\'
    store.append(Batch(stream=name, events=(event(name, type_=name),), expected_version=0))
    (record,) = store.read(name)
    body = json.loads(record.body)
    assert (body["stream"], body["event_id"], body["type"], body["payload"]) == (name, name, name, {"n": 1})
    assert record.payload == '{"n":1}'


def test_hash_covers_what_came_before(store: EventStore) -> None:
    """Each hash is SHA-256 of the previous hash's hexadecimal text and the body."""
    previous = GENESIS
    for record in fill(store):
        assert record.hash == hashlib.sha256(previous.encode() + record.body).hexdigest()
        previous = record.hash


def test_category_is_text_before_hyphen() -> None:
    """A stream's category is its name up to the first hyphen, or the whole name."""
    assert [category_of(name) for name in ("download-a-1", "home", "-x")] == ["download", "home", ""]

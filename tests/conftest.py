"""What holds for every test: nothing of the machine's own SAM or Hub account is seen, examples repeat exactly."""

from __future__ import annotations

import logging
import os

import pytest
import structlog
from hypothesis import HealthCheck, settings

for _name in ("SAM_HOME", "HF_TOKEN", "HF_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
    os.environ.pop(_name, None)

# One line an appended event is for the log of a run; thousands of runs in memory do without.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

# `derandomize` derives the examples from the test itself: the same everywhere and every time. No deadline: the
# machine is shared with the other workers, and a slow moment is no failure.
settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("ci", parent=settings.get_profile("default"), max_examples=200)
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that load real engines on one worker: side by side they are slower than one after the other."""
    for item in items:
        if item.get_closest_marker("real_model"):
            item.add_marker(pytest.mark.xdist_group("real_model"))

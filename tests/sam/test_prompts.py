"""Prompt sets by family, and the reader that fills them."""

from __future__ import annotations

import pytest

from sam_migrate.errors import RefusedError
from sam_migrate.sam.prompts import PromptSet, build_prompts


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ("llama", "llama"),
        ("Qwen", "qwen"),
        ("deepseek", "deepseek"),
        ("DeepSeek-R1 (Qwen3 distilled)", "deepseek"),
        ("Hybrid (state space)", "deepseek"),
        ("", "deepseek"),
    ],
)
def test_family_chooses_the_set(family: str, named: str) -> None:
    """Each family has its own texts, any other gets the fallback's."""
    assert build_prompts(family, None) == build_prompts(named, None)
    assert build_prompts(family, None)["family"] == named


@pytest.mark.parametrize("family", ["deepseek", "llama", "qwen"])
def test_set_is_complete(family: str) -> None:
    """Every family has the three prompts, and the model's own template beside them."""
    prompts = build_prompts(family, "{{ messages }}")
    assert PromptSet(prompts).names() == ("chat_format", "reasoning_prompt", "system_prompt")
    assert "{user_input}" in prompts["chat_format"]
    assert PromptSet(prompts).chat_template == "{{ messages }}"


def test_placeholders_are_filled_once() -> None:
    """What is filled in is text, whatever braces it has."""
    prompts = PromptSet({"x": "{a} and {b}, {not this} {}"})
    assert prompts.get_prompt("x", a="{b}", b=1) == "{b} and 1, {not this} {}"


def test_unknown_prompt_is_refused() -> None:
    """A name that is no prompt is refused, the chat template's among them."""
    prompts = PromptSet(build_prompts("llama", "{{ x }}"))
    with pytest.raises(RefusedError, match="chat_template"):
        prompts.get_prompt("chat_template")


def test_missing_variable_is_refused() -> None:
    """A placeholder nobody filled is refused by name."""
    with pytest.raises(RefusedError, match="user_input"):
        PromptSet(build_prompts("llama", None)).get_prompt("chat_format")


def test_missing_template_is_none() -> None:
    """A model without a chat template has none."""
    assert PromptSet(build_prompts("llama", None)).chat_template is None

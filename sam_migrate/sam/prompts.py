"""Prompt sets: what a generation tells its engine, by the family of the model, and the reader SAM uses.

Placeholders are `{name}`; braces around anything else are text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sam_migrate.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

FALLBACK: Final = "deepseek"

_FAMILIES: Final[dict[str, dict[str, str]]] = {
    "deepseek": {
        "system_prompt": (
            "You are SAM, an assistant that runs on the user's own machine. Think a question through before you "
            "answer it, keep to what you know or were given, and say so when that is not enough."
        ),
        "reasoning_prompt": (
            "Work through the task inside <think> and </think>: what is asked, what is known, what follows from it. "
            "Then give the answer alone.\n\n{user_input}"
        ),
        "chat_format": "<\uff5cUser\uff5c>{user_input}<\uff5cAssistant\uff5c>",
    },
    "llama": {
        "system_prompt": (
            "You are SAM, a helpful assistant on the user's own machine. Answer briefly and clearly, use the memory "
            "you are given, and never invent sources."
        ),
        "reasoning_prompt": (
            "Solve the task in numbered steps, check the result once, and finish with a line that begins with "
            "'Answer:'.\n\n{user_input}"
        ),
        "chat_format": (
            "<|start_header_id|>user<|end_header_id|>\n\n{user_input}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
    },
    "qwen": {
        "system_prompt": (
            "You are SAM, an assistant that works locally for one user. Be precise, answer in the user's language, "
            "and tell facts from guesses."
        ),
        "reasoning_prompt": (
            "Take the task apart, reason about each part in turn, then put the parts together into one answer."
            "\n\n{user_input}"
        ),
        "chat_format": "<|im_start|>user\n{user_input}<|im_end|>\n<|im_start|>assistant\n",
    },
}

_PLACEHOLDER: Final = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


def build_prompts(family: str, chat_template: str | None) -> dict[str, Any]:
    """Return the prompt set for a family, the fallback's where it is not known, with the model's own chat template."""
    named = next((name for name in _FAMILIES if name in family.lower()), FALLBACK)
    return {"family": named, **_FAMILIES[named], "chat_template": chat_template}


class PromptSet:
    """A prompt set as read back from a generation."""

    def __init__(self, prompts: Mapping[str, Any]) -> None:
        """Keep the texts."""
        self._prompts = dict(prompts)

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template, None when its file has none."""
        template = self._prompts.get("chat_template")
        return template if isinstance(template, str) else None

    def names(self) -> tuple[str, ...]:
        """Return the names `get_prompt` knows."""
        return tuple(sorted(name for name, text in self._prompts.items() if _is_prompt(name, text)))

    def get_prompt(self, name: str, **variables: object) -> str:
        """Return the prompt with its placeholders filled; what is filled in is never looked at again.

        Raises RefusedError for a name or a placeholder nobody gave.
        """
        if name not in self.names():
            raise RefusedError(f"there is no prompt '{name}'", hint=f"There are: {', '.join(self.names())}.")
        text = str(self._prompts[name])
        missing = {match[1] for match in _PLACEHOLDER.finditer(text)} - variables.keys()
        if missing:
            raise RefusedError(f"prompt '{name}' needs {', '.join(sorted(missing))}")
        return _PLACEHOLDER.sub(lambda match: str(variables[match[1]]), text)


def _is_prompt(name: str, text: object) -> bool:
    # The chat template is Jinja, not one of our texts.
    return isinstance(text, str) and name not in ("family", "chat_template")

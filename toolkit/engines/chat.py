"""Chat wrapping for Hugging Face tokenizers: each message is tokenised once, when it is appended.

The template is rendered once, on marker texts, and cut into what stands around them. Knows no steering and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, FIRST, REPLY, NEXT = "selfsteerSYSTEM", "selfsteerFIRST", "selfsteerREPLY", "selfsteerNEXT"

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n{% elif m['role'] == 'user' %}"
    "User: {{ m['content'] }}\n{% else %}Assistant: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For base models without a chat template."""


@dataclass(frozen=True)
class Wrapping:
    """The fixed strings of a chat template around system prompt, user turns and replies.

    alone: before a first user turn without a system prompt. close: what ends a reply, its stop token included.
    """

    before_system: str
    after_system: str
    alone: str
    before_user: str
    header: str
    close: str


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template, as the engine contract wants it (see base.Tokenizer).

    eos: what the model's generation configuration says ends a response: one token, several or none.
    Raises BadInput for a template that drops, repeats or alters a message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos: int | Sequence[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._special = _special(tokenizer)
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self._around = _cut(tokenizer, None if self.has_template else PLAIN)
        ends = [*eos] if isinstance(eos, Sequence) else [eos]
        closing = self._ids(self._around.close)[:1]
        known = (token for token in (*ends, tokenizer.eos_token_id, *closing) if token is not None)
        self.stop_tokens: frozenset[int] = frozenset(map(int, known))

    def opening(self, system: str, text: str) -> tuple[int, ...]:
        a = self._around
        before = (a.before_system, system, a.after_system) if system else (a.alone, "", "")
        return self._joined(*before, text, a.header)

    def user_turn(self, text: str, closed: bool) -> tuple[int, ...]:
        a = self._around
        close = self._ids(a.close)
        return (*(close[1:] if closed else close), *self._joined(a.before_user, text, a.header))

    def encode(self, text: str) -> tuple[int, ...]:
        return self._text(text)

    def document(self, text: str) -> tuple[int, ...]:
        first = self._tokenizer.bos_token_id
        return (*(() if first is None else (int(first),)), *self._text(text))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _joined(self, *parts: str) -> tuple[int, ...]:
        """Fixed strings (even places) and contents (odd places) as one text, unless a content holds a special token.

        Joined is what the model was trained on; apart is what keeps a content from closing its own turn.
        """
        if any(special in content for content in parts[1::2] for special in self._special):
            return tuple(
                token for i, part in enumerate(parts) for token in (self._text(part) if i % 2 else self._ids(part))
            )
        return self._ids("".join(parts))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids) if text else ()

    def _text(self, text: str) -> tuple[int, ...]:
        """Tokens of a content: whatever looks like a special token in it is plain characters."""
        if not text:
            return ()
        return tuple(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def _cut(tokenizer: Any, template: str | None) -> Wrapping:
    """Render the template on markers and cut it at them. Raises BadInput if it drops or alters a message."""

    def render(*roles_and_texts: tuple[str, str]) -> str:
        messages = [{"role": role, "content": text} for role, text in roles_and_texts]
        return str(
            tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, chat_template=template, enable_thinking=False
            )
        )

    from jinja2 import TemplateError

    user, reply, later = ("user", FIRST), ("assistant", REPLY), ("user", NEXT)
    try:
        alone, rest = _split(render(user, reply, later), FIRST)
        _, rest = _split(rest, REPLY)
        between, header = _split(rest, NEXT)
        header = _split(render(user), FIRST)[1]
    except (TemplateError, ValueError, TypeError, BadInput) as error:
        raise BadInput(f"this chat template cannot be used: {error}") from error
    try:
        before_system, rest = _split(render(("system", SYSTEM), user), SYSTEM)
        after_system = _split(rest, FIRST)[0]
    except (TemplateError, ValueError, BadInput):  # no system role: it opens the first user turn, as its makers advise
        before_system, after_system = alone, "\n\n"
    return Wrapping(before_system, after_system, alone, *_close(tokenizer, between, header))


def _close(tokenizer: Any, between: str, header: str) -> tuple[str, str, str]:
    """What stands between a reply and the next user text, cut after the special token that ends the reply."""
    for special in _special(tokenizer):
        if between.startswith(special):
            return between[len(special) :], header, special
    return between, header, ""


def _special(tokenizer: Any) -> list[str]:
    """The texts of all special tokens, longest first."""
    added = {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return sorted({*added, *map(str, tokenizer.all_special_tokens)} - {""}, key=len, reverse=True)


def _split(text: str, marker: str) -> tuple[str, str]:
    if text.count(marker) != 1:
        raise BadInput(f"it renders a message {text.count(marker)} times instead of once")
    before, after = text.split(marker)
    return before, after

"""Turns that are tokenised once each give the tokens of the whole conversation rendered by the template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from toolkit.engines.chat import ChatTokenizer
from toolkit.errors import BadInput

TEMPLATES = {
    "ours": None,
    "chatml": (
        "{% for m in messages %}<|system|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|system|>assistant\n{% endif %}"
    ),
    "llama 3": (
        "{% for m in messages %}{% if loop.first %}<|bos|>{% endif %}<|user|>{{ m['role'] }}<|user|>\n\n"
        "{{ m['content'] | trim }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|user|>assistant<|user|>\n\n{% endif %}"
    ),
}


def tokenizer(folder: Path, template: str | None = None):
    made = AutoTokenizer.from_pretrained(folder)
    if template is not None:
        made.chat_template = template
    return made


@pytest.mark.parametrize("name", TEMPLATES)
def test_appended_turns_are_the_rendered_conversation(tiny_llama: Path, name: str) -> None:
    inner = tokenizer(tiny_llama, TEMPLATES[name])
    chat = ChatTokenizer(inner)
    end = inner.convert_tokens_to_ids("<|end|>")
    reply = chat.encode("I see.")
    ours = (*chat.opening("Be brief.", "Hello"), *reply, end, *chat.user_turn("Continue.", closed=True))
    messages = [("system", "Be brief."), ("user", "Hello"), ("assistant", "I see."), ("user", "Continue.")]
    text = inner.apply_chat_template(
        [{"role": r, "content": c} for r, c in messages], add_generation_prompt=True, tokenize=False
    )
    assert inner.decode(list(ours)) == text
    assert list(ours) == inner(text, add_special_tokens=False).input_ids
    assert end in chat.stop_tokens


def test_a_reply_that_was_cut_short_is_closed(tiny_llama: Path) -> None:
    chat = ChatTokenizer(tokenizer(tiny_llama))
    closed, cut = chat.user_turn("x", closed=True), chat.user_turn("x", closed=False)
    assert cut == (1, *closed)


def test_a_special_token_that_begins_another_is_not_taken_for_it(tiny_llama: Path) -> None:
    inner = tokenizer(tiny_llama)
    end = inner.convert_tokens_to_ids("<|end|>")
    inner.add_special_tokens({"additional_special_tokens": ["<|end"]})
    chat = ChatTokenizer(inner)
    assert chat.stop_tokens == {end} and chat.user_turn("x", closed=False)[0] == end


@given(st.text(max_size=20), st.sampled_from(["<|end|>", "<|system|>", "<|bos|>"]))
def test_a_content_cannot_close_its_own_turn(tiny_llama: Path, text: str, special: str) -> None:
    chat = ChatTokenizer(tokenizer(tiny_llama))
    specials = lambda tokens: [t for t in tokens if t < 5]  # noqa: E731
    assert specials(chat.user_turn(text + special + text, True)) == specials(chat.user_turn("harmless", True))
    assert special in chat.decode(chat.encode(special))


def test_no_template_and_no_system_role_are_met(tiny_llama: Path) -> None:
    base = tokenizer(tiny_llama)
    base.chat_template = None
    chat = ChatTokenizer(base)
    assert chat.decode(chat.opening("", "hi")) == "User: hi\nAssistant:"
    assert chat.decode(chat.opening("Be brief.", "hi")) == "Be brief.\n\nUser: hi\nAssistant:"
    strict = tokenizer(tiny_llama, "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}"
                                   "{% endif %}<|user|>{{ m['content'] }}<|end|>{% endfor %}")  # fmt: skip
    opening = ChatTokenizer(strict).opening("Be brief.", "hi")
    assert strict.decode(list(opening)) == "<|user|>Be brief.\n\nhi<|end|>"


def test_a_model_that_can_think_first_answers_at_once(tiny_llama: Path) -> None:
    """What it thought would be in the context as its response, and the tools' calls behind it."""
    template = (
        "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|system|>"
        "{% if enable_thinking is defined and enable_thinking is false %}thought: none.{% endif %}{% endif %}"
    )
    inner = tokenizer(tiny_llama, template)
    assert inner.decode(list(ChatTokenizer(inner).opening("", "hi"))) == "<|user|>hi<|end|><|system|>thought: none."


@pytest.mark.parametrize(("eos", "ends"), [(None, set()), (2, {2}), ([2, 3], {2, 3})], ids=str)
def test_whatever_the_model_says_ends_a_response_is_a_stop_token(tiny_llama: Path, eos, ends) -> None:
    inner = tokenizer(tiny_llama)
    assert ChatTokenizer(inner, eos).stop_tokens == ends | {inner.eos_token_id}
    inner.eos_token = None  # then what closes a turn of the template ends it
    assert ChatTokenizer(inner, eos).stop_tokens == ends | {inner.convert_tokens_to_ids("<|end|>")}


def test_a_template_that_drops_messages_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(BadInput, match="chat template"):
        ChatTokenizer(tokenizer(tiny_llama, "nothing"))

"""A Llama of two blocks, set by hand, in which it is known what carries a feature on: its state, or its words.

Positive control for instruments that tell these apart. Knows no scenario and was never trained.

Every word has the same embedding but for one, so what was said matters through that word alone. Block 0 passes its
input on; features are pushed at its output. Block 1 attends to all tokens alike and reads two axes of theirs:

    STATE   no embedding has it, a push writes it: it lives in keys and values alone, and makes "arr" likelier later
    WORD    the embedding of "ahoy" has it, no push writes it: that word in the history makes "ahoy" likelier later
    NOW     a push writes it, and nothing reads it later: it makes "ahoy" likelier while it lasts
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.dictionary import FeatureDictionary

LABELS = ("carried by state", "carried by words")
MARKS = ("arr", "ahoy")  # the word that a feature makes likelier
PLAIN = ("well", "so", "then", "now", "here", "there", "still", "once")
SPECIAL = ("<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unk|>")
CHAT = (
    "{% for m in messages %}{% if loop.first %}<|bos|>{% endif %}{% if m['role'] == 'user' %}<|user|>{% endif %}"
    "{% if m['role'] == 'assistant' %}<|assistant|>{% endif %}{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
D_MODEL = 16
BIAS, STATE, NOW, WORD, TO_ARR, TO_AHOY = range(6)  # axes of the residual
SIZE = 16.0  # of the bias in every embedding; large, so that a push hardly changes the norm
PUSH = 4.0  # of strength 1.0
RARE = -4.0  # logit of "arr" and "ahoy" against any plain word, when nothing was pushed and none was said
STOP = 0.0  # of the end of a reply
FROM_STATE, FROM_NOW, FROM_WORD = 30.0, 4.5, 60.0  # what the three axes add to a logit, of a residual of norm 1 each


def make_carrier(folder: Path) -> Path:
    """Write the model and its tokenizer, which splits at spaces, into `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = (*SPECIAL, *PLAIN, "arr", "ahoy")
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # words with spaces between them
    raw.add_special_tokens(list(SPECIAL[:4]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|bos|>", eos_token="<|end|>", unk_token="<|unk|>"
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=D_MODEL, intermediate_size=4, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=4096, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        arr, ahoy = words.index("arr"), words.index("ahoy")
        model.model.embed_tokens.weight[:, BIAS] = SIZE
        model.model.embed_tokens.weight[ahoy, WORD] = PUSH
        attention = model.model.layers[1].self_attn
        attention.v_proj.weight[0, STATE] = attention.v_proj.weight[1, WORD] = 1.0
        attention.o_proj.weight[TO_ARR, 0] = attention.o_proj.weight[TO_AHOY, 1] = 1.0
        head, bias = model.lm_head.weight, D_MODEL**0.5  # the bias axis of a residual of norm sqrt(D) is nearly this
        head[: len(SPECIAL), BIAS] = -30.0 / bias
        head[1, BIAS] = STOP / bias
        head[arr, BIAS] = head[ahoy, BIAS] = RARE / bias
        head[arr, TO_ARR], head[ahoy, TO_AHOY], head[ahoy, NOW] = FROM_STATE, FROM_WORD, FROM_NOW
    model.save_pretrained(folder)
    return folder


def carrier_features() -> FeatureDictionary:
    """Its two features, as vectors at block 0: strength 1.0 pushes by PUSH."""
    import torch

    from toolkit.vectors import Vectors, as_dictionary

    values = torch.zeros(2, 1, D_MODEL)
    values[0, 0, STATE] = values[1, 0, NOW] = 1.0
    return as_dictionary(Vectors(values, LABELS, (0,), (PUSH,), 1.0, 0, "one axis of the residual"), "carrier")

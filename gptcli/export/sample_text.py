"""The text that an export is compared by, and the prompts that its card shows: what a tokenizer can encode.

It knows tokenizers and how conversations are written; it knows no format and no model.
"""

from __future__ import annotations

from gptcli.chat_template import ChatTemplate, Message
from gptcli.errors import TokenizerError
from gptcli.tokenizer import CharTokenizer, Tokenizer

MAX_CHARS = 4000
HARD_TEXT = "Naïve — 12345 'll\r\n\t漢字とかな\u3000👍🏽\xa0\x85  \n\n\n  end"
CONVERSATION = (
    Message("system", "Be short."),
    Message("user", " Who are you? "),
    Message("assistant", "A model."),
    Message("user", "And\nwho is “she”?"),
)


def real_text(tokenizer: Tokenizer) -> str:
    """Return a few thousand characters of prose that ``tokenizer`` can encode: Python's own documentation.

    A char tokenizer gets the characters it has, and then its whole alphabet, over and over if need be.
    """
    if not isinstance(tokenizer, CharTokenizer):
        return _prose()
    alphabet = _alphabet(tokenizer)
    return _known(_prose(), tokenizer) + alphabet * max(1, 1000 // len(alphabet))


def compared_text(tokenizer: Tokenizer) -> str:
    """Return ``real_text``, and then what is hard to cut into words, as far as ``tokenizer`` can encode it."""
    return real_text(tokenizer) + _known(HARD_TEXT, tokenizer)


def conversation(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[Message, ...]:
    """Return messages to compare a template by, of the characters that ``tokenizer`` has.

    Sides that never spoke in the text it was made of may have words in ``template`` that it lacks: they are left out.
    """
    around = {
        "system": template.system_start + template.system_end,
        "user": template.user_start + template.user_end,
        "assistant": template.answer_start + " " + template.answer_end,
    }
    return tuple(
        Message(role, _known(content, tokenizer)) for role, content in CONVERSATION if _encodes(tokenizer, around[role])
    )


def shown_prompt(asked: str, tokenizer: Tokenizer) -> str:
    """Return the prompt for the examples of a card: ``asked`` if a line of code can hold it and the model knows it.

    Otherwise the first word of it that is fit, or of English prose, or of an alphabet; empty where that gives none.
    """
    words = (asked, *asked.split(), *_prose().split(), *real_text(tokenizer).split())
    fit = (word for word in words if word and word.isprintable() and "`" not in word and _encodes(tokenizer, word))
    return next(fit, "")


def new_tokens(asked: int, block_size: int) -> int:
    """Return how many tokens a program may write by default: ``asked``, but half of the context is the prompt's."""
    return max(1, min(asked, block_size // 2))


def _prose() -> str:
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in ("class", "for", "assignment") if name in topics)[:MAX_CHARS]


def _alphabet(tokenizer: CharTokenizer) -> str:
    return tokenizer.decode(range(tokenizer.vocab_size))


def _known(text: str, tokenizer: Tokenizer) -> str:
    """Return the characters of ``text`` that ``tokenizer`` has, which is all of them but for a char tokenizer."""
    if not isinstance(tokenizer, CharTokenizer):
        return text
    alphabet = set(_alphabet(tokenizer))
    return "".join(character for character in text if character in alphabet)


def _encodes(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text)
    except TokenizerError:
        return False
    return True

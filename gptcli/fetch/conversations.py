"""Records to conversations: which fields say who said what, and how that becomes a text with its answers.

Known are lists of messages (``messages`` of role and content, ``conversations`` of from and value) and pairs of a
prompt and its completion. Knows nothing of files, tokens or where records come from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptcli.chat_template import Message, write_conversation
from gptcli.documents import PART_CHARS, Document, document, normalize_newlines, well_formed
from gptcli.errors import SourceError
from gptcli.fetch.options import FetchOptions
from gptcli.fetch.records import (
    TEXT_NAMES,
    NoFieldError,
    TextFields,
    choose_fields,
    choose_origin,
    has_path,
    plain_name,
    record_origin,
    shown_fields,
    value_at,
)

# What the fields are called, the likeliest first, written as `plain_name` writes them.
LISTS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "turns")
PROMPTS = ("prompt", "instruction", "question")
ANSWERS = ("completion", "response", "output", "answer")
CONTEXTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")
# Who speaks, in the words of several formats; what tools say is left out.
ROLES: Mapping[str, str] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "function_call", "tool_call", "observation", "ipython"), "tool"),
}
NO_ANSWER = "conversations without an answer"
TOO_LONG = f"conversations of more than {PART_CHARS:,} characters"


@dataclass(frozen=True, slots=True)
class ChatFields:
    """Paths into a record: to its list of ``turns``, else to prompt and ``answer``; "" where it has none.

    ``context`` goes on where the prompt ends, ``system`` stands before all, ``origin`` has title, address and so on.
    """

    origin: TextFields
    turns: str = ""
    prompt: str = ""
    context: str = ""
    answer: str = ""
    system: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths, those of the origin too."""
        own = (self.turns, self.prompt, self.context, self.answer, self.system)
        return (*filter(None, own), *self.origin.paths)

    @property
    def shown(self) -> str:
        """The fields in a sentence."""
        return self.turns or " and ".join(filter(None, (self.prompt, self.context, self.answer)))


class MixedError(NoFieldError):
    """Some records are conversations and as many are not, so that either way of reading them would lose the others."""


def choose_any_fields(
    sample: Sequence[Mapping[str, Any]], options: FetchOptions, label: str, notes: list[str]
) -> TextFields | ChatFields:
    """Choose the fields of records that are conversations or ordinary texts; raises ``NoFieldError`` as both do.

    They are conversations where most of the sample are, or ``--as chat`` says so; fields that are asked for without it
    are ordinary text. What a user should know of the choice goes to ``notes``, once for all files of a data set.
    """
    wanted = options.text_fields
    if options.as_kind == "chat":
        found: TextFields | ChatFields = asked_chat_fields(sample, wanted, label)
    else:
        chat = None if wanted else choose_chat_fields(sample, label)
        found = chat or choose_fields(sample, wanted, label)
    note = ""
    if isinstance(found, ChatFields):
        note = f": read as conversations ({found.shown})"
        note += "; --text-fields NAME reads a field as ordinary text." if found.prompt else "."
    elif not wanted and (pairs := choose_chat_fields(sample, label, insist=True)):
        note = f": read as ordinary text ({found.shown}); --as chat reads {pairs.shown} as conversations."
    if note and not any(said.endswith(note) for said in notes):
        notes.append(label + note)
    return found


def choose_chat_fields(sample: Sequence[Mapping[str, Any]], label: str, *, insist: bool = False) -> ChatFields | None:
    """Return the fields of records most of which are conversations, so that the others are dropped; else None.

    Pairs that have a field called like a text beside them (``text``, ``body``) are ordinary records. The user may
    insist: then one conversation is enough, and such pairs are some. Raises ``MixedError`` that names the first record
    which is none where no more than half of them are.
    """
    shape = _likeliest(sample)
    if not shape or insist:
        return _chat_fields(sample, shape) if shape else None
    chats = [record for record in sample if _is_conversation(record, shape)]
    plain = chats if len(shape) == 1 else [record for record in chats if not _has_text(record)]
    if 2 * len(plain) > len(sample):
        return _chat_fields(sample, shape)
    if not plain or 2 * (len(chats) - len(plain)) >= len(sample):
        return None
    other = next(number for number, record in enumerate(sample, 1) if not any(record is one for one in plain))
    are = "is a conversation" if len(plain) == 1 else "are conversations"
    raise MixedError(
        f"{label}: {len(plain)} of the first {len(sample)} records {are} ({' and '.join(shape)}), and record {other} "
        "is none.",
        "--as chat takes the conversations and leaves the others out."
        + (f" Ordinary text of all: --text-fields {shape[0]}" if len(shape) == 2 else ""),
    )


def asked_chat_fields(sample: Sequence[Mapping[str, Any]], wanted: tuple[str, ...], label: str) -> ChatFields:
    """Return the fields of records that the user calls conversations: ``wanted`` names a list, or prompt and answer.

    Raises ``NoFieldError`` that lists the fields where there is nothing like it.
    """
    found = _chat_fields(sample, wanted) if wanted else choose_chat_fields(sample, label, insist=True)
    what = "" if found else "the records are no conversations"
    if len(wanted) > 2:
        what = f"--as chat reads one field of messages, or two of prompt and answer, and {len(wanted)} are named"
    for path in () if what else wanted:
        values = [value_at(record, path) for record in sample]
        if not any(has_path(record, path) for record in sample):
            what = f"no record has a field {path!r}"
        elif any(values) and not any(_are_turns(value) or _is_text(value, wanted) for value in values):
            what = f"the field {path!r} holds no {'messages' if len(wanted) == 1 else 'text'}"
    if found is None or what:
        raise NoFieldError(
            f"{label}: {what}. The fields are {shown_fields(sample)}; expected are messages (a list of role and "
            "content), conversations (of from and value), or prompt and completion.",
            "Name a list of messages, or prompt and answer: --text-fields question,answer",
        )
    return found


def record_conversation(
    record: Mapping[str, Any], fields: ChatFields, dropped: Counter[str], where: str
) -> Document | None:
    """Make a document of one record's conversation; None, counted in ``dropped``, where it has no answer.

    ``where`` names the record in the ``SourceError`` for a role that is not known.
    """
    messages = list(_messages(record, fields, dropped, where))
    conversation = write_conversation(messages)
    if not conversation.answers:
        dropped[NO_ANSWER] += 1
        return None
    if len(conversation.text) > PART_CHARS:
        dropped[TOO_LONG] += 1
        return None
    origin = record_origin(record, fields.origin)
    return document(conversation.text, answers=conversation.answers, **origin)


def _messages(record: Mapping[str, Any], fields: ChatFields, dropped: Counter[str], where: str) -> Iterator[Message]:
    """Yield what was said; messages that say nothing are left out, empty answers are counted."""
    said = [("system", value_at(record, fields.system))]
    if fields.turns:
        said += _turns(value_at(record, fields.turns), "user")
    else:
        prompt, context = (value_at(record, path) for path in (fields.prompt, fields.context))
        if isinstance(prompt, str) and isinstance(context, str) and context.strip():
            prompt = f"{prompt}\n\n{context}"
        said += [*_turns(prompt, "user"), *_turns(value_at(record, fields.answer), "assistant")]
    for name, value in said:
        role = ROLES.get(name.strip().lower())
        if role is None:
            known = ", ".join(sorted(ROLES))
            raise SourceError(
                f"{where}: a message has the role {name!r}, which is not known. Known are {known}.",
                "Rename it in the file, or leave those messages out.",
            )
        content = _content(value, dropped).strip()
        if role == "tool":
            dropped["messages of tools"] += 1
        elif content:
            yield Message(role, content)
        elif role == "assistant":
            dropped["empty answers"] += 1


def _turns(value: object, role: str) -> list[tuple[str, Any]]:
    """Return who says what in a list of messages; anything else is said by ``role``."""
    if not _are_turns(value):
        return [(role, value)]
    assert isinstance(value, (list, tuple))
    return [(str(_first(turn, _ROLE_KEYS)), _first(turn, _CONTENT_KEYS)) for turn in value]


def _content(value: object, dropped: Counter[str]) -> str:
    """Return what a message says: a text, or the texts of its parts; pictures and the like are counted."""
    if isinstance(value, str):
        return well_formed(normalize_newlines(value))
    parts = value if isinstance(value, (list, tuple)) else [value]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            texts.append(well_formed(normalize_newlines(text)).strip())
        elif part is not None:
            dropped["parts of messages that are not text"] += 1
    return "\n\n".join(filter(None, texts))


def _likeliest(sample: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the field of a list of messages, or those of prompt and answer, that most records have; () for none."""
    names = _names(sample)
    lists = [(names[name],) for name in LISTS if name in names]
    pairs = [(names[one], names[two]) for one, two in itertools.product(PROMPTS, ANSWERS) if {one, two} <= names.keys()]
    counts = {shape: sum(_is_conversation(record, shape) for record in sample) for shape in (*lists, *pairs)}
    best = max(counts, key=lambda shape: counts[shape], default=())
    return best if best and counts[best] else ()


def _names(sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the fields by their plain names; of several that have the same, the one of the most records."""
    names: dict[str, str] = {}
    for key, _ in Counter(str(key) for record in sample for key in record).most_common():
        names.setdefault(plain_name(key), key)
    return names


def _chat_fields(sample: Sequence[Mapping[str, Any]], shape: tuple[str, ...]) -> ChatFields:
    """Return these fields with those that go with them, which the prompt or the list cannot be as well."""
    names = {name: key for name, key in _names(sample).items() if key not in shape}
    origin = choose_origin(sample)
    system = next((names[name] for name in SYSTEMS if name in names), "")
    if len(shape) == 1:
        return ChatFields(origin, turns=shape[0], system=system)
    contexts = [names[name] for name in CONTEXTS if name in names]
    context = next((key for key in contexts if any(isinstance(record.get(key), str) for record in sample)), "")
    return ChatFields(origin, prompt=shape[0], context=context, answer=shape[1], system=system)


def _is_conversation(record: Mapping[str, Any], shape: tuple[str, ...]) -> bool:
    return all(_are_turns(value) or _is_text(value, shape) for value in (value_at(record, path) for path in shape))


def _is_text(value: object, shape: tuple[str, ...]) -> bool:
    """Say whether this is one side of a pair; a list of messages has its sides in itself."""
    return len(shape) == 2 and isinstance(value, str) and bool(value)


def _has_text(record: Mapping[str, Any]) -> bool:
    return any(value and plain_name(str(key)) in TEXT_NAMES for key, value in record.items())


def _are_turns(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(
        isinstance(turn, Mapping)
        and isinstance(_first(turn, _ROLE_KEYS), str)
        # A call of a tool has no content; a part of a message has neither.
        and any(key in turn for key in (*_CONTENT_KEYS, "tool_calls", "function_call"))
        for turn in value
    )


def _first(turn: Mapping[str, Any], keys: Sequence[str]) -> Any:  # noqa: ANN401 - a message may hold anything
    return next((turn[key] for key in keys if turn.get(key) is not None), None)

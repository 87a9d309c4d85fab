"""Records to conversations: which fields say who said what, and how that becomes a text with its answers.

Known are lists of messages (``messages`` of role and content, ``conversations`` of from and value) and pairs of a
prompt and its completion. Knows nothing of files, tokens or where records come from.
"""

from __future__ import annotations

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


def choose_any_fields(
    sample: Sequence[Mapping[str, Any]], options: FetchOptions, label: str
) -> TextFields | ChatFields:
    """Choose the fields of records that are conversations or ordinary texts; raises ``NoFieldError`` as both do.

    They are conversations where all of the sample are, or ``--as chat`` says so; fields that are asked for without it
    are ordinary text.
    """
    wanted = options.text_fields
    if options.as_kind == "chat":
        return asked_chat_fields(sample, wanted, label)
    found = None if wanted else choose_chat_fields(sample)
    return found or choose_fields(sample, wanted, label)


def choose_chat_fields(sample: Sequence[Mapping[str, Any]], *, insist: bool = False) -> ChatFields | None:
    """Return the fields of records that are conversations; None unless every record of the sample is one.

    Records of pairs that have a field called like a text beside them (``text``, ``body``) are taken for ordinary ones,
    unless the user insists.
    """
    names = {plain_name(str(key)): str(key) for record in sample for key in record}
    origin = choose_origin(sample)
    system = next((names[name] for name in SYSTEMS if name in names), "")
    for name in LISTS:
        if name in names and _all_turns(sample, names[name]):
            return ChatFields(origin, turns=names[name], system=system)
    if not insist and not names.keys().isdisjoint(TEXT_NAMES):
        return None
    prompt, answer, context = (
        next((names[name] for name in known if name in names and _all_said(sample, names[name])), "")
        for known in (PROMPTS, ANSWERS, CONTEXTS)
    )
    if not prompt or not answer:
        return None
    return ChatFields(origin, prompt=prompt, context=context, answer=answer, system=system)


def asked_chat_fields(sample: Sequence[Mapping[str, Any]], wanted: tuple[str, ...], label: str) -> ChatFields:
    """Return the fields of records that the user calls conversations: ``wanted`` names a list, or prompt and answer.

    Raises ``NoFieldError`` that lists the fields where there is nothing like it.
    """
    missing = [path for path in wanted if not any(has_path(record, path) for record in sample)]
    found = None if wanted else choose_chat_fields(sample, insist=True)
    if len(wanted) == 1 and not missing:
        found = ChatFields(choose_origin(sample), turns=wanted[0])
    elif len(wanted) == 2 and not missing:
        found = ChatFields(choose_origin(sample), prompt=wanted[0], answer=wanted[1])
    if found is None:
        what = f"no record has a field {missing[0]!r}" if missing else "the records are no conversations"
        raise NoFieldError(
            f"{label}: {what}. The fields are {shown_fields(sample)}; expected are messages (a list of role and "
            "content), conversations (of from and value), or prompt and completion.",
            "Name a list of messages, or prompt and answer: --text-fields question,answer",
        )
    return found


def read_as_conversations(label: str, fields: ChatFields) -> str:
    """Return the sentence that says what a source was taken for, and how it would not be."""
    return f"{label}: read as conversations ({fields.shown}); --text-fields NAME reads a field as ordinary text."


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


def _all_turns(sample: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Say whether this field of every record is a list of messages, and one of them at least is not empty."""
    values = [record.get(key) for record in sample]
    return any(values) and all(value == [] or _are_turns(value) for value in values)


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


def _all_said(sample: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Say whether this field of every record is something said: a text, or messages; one may be empty."""
    values = [record.get(key, 0) for record in sample]
    return any(values) and all(value is None or isinstance(value, str) or _are_turns(value) for value in values)

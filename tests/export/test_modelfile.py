from __future__ import annotations

import dataclasses
import re

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.bases.base import Base
from gptcli.bpe import train_bpe
from gptcli.chat_template import ChatTemplate, Message, write_prompt
from gptcli.config import ModelConfig, SampleConfig
from gptcli.export.modelfile import chat_template_go, modelfile

BPE = train_bpe(["abc"], 257)
BASE = Base("tiny", "run", ModelConfig(n_embd=16, n_layer=1, block_size=64, vocab_size=257), BPE, {})
SAMPLE = SampleConfig()
END = "<|endoftext|>"
CONVERSATION = (
    Message("system", "Be short."),
    Message("user", "Who are you?"),
    Message("assistant", "A model."),
    Message("user", "And\nwho is {{ she }}?"),
)


def parse(text: str) -> list[tuple[str, str]]:
    """Read a Modelfile as Ollama's parser does, as far as ours go: commands and their values, without the quotes.

    A value ends at a space or line end where its quotes are closed; what Go does not call printable is dropped.
    """
    commands: list[tuple[str, str]] = []
    rest = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    while rest.strip():
        found = re.match(r"\s*(FROM|TEMPLATE|PARAMETER [a-z_]+) ", rest)
        assert found is not None, rest
        rest = rest[found.end() :]
        value = re.match(r'"""(.*?)"""(?=\s)|([^"\s]+)(?=\s)', rest, re.DOTALL)
        assert value is not None, rest
        rest = rest[value.end() :]
        whole = value[1] if value[1] is not None else value[2]
        commands.append((found[1], "".join(c for c in whole if c.isprintable() or c in "\n\r\t ")))
    return commands


def render(template: str, messages: tuple[Message, ...]) -> str:
    """Execute a template of Go's, as far as ours go: its actions mean the same in Jinja under other names."""
    for go, jinja in (
        ("{{ range .Messages }}", "{% for message in messages %}"),
        ('{{ if eq .Role "assistant" }}', '{% if message.role == "assistant" %}'),
        ('{{ else if eq .Role "system" }}', '{% elif message.role == "system" %}'),
        ("{{ else }}", "{% else %}"),
        ("{{ end }}{{ end }}", "{% endif %}{% endfor %}"),
        ("{{ .Content }}", "{{ message.content }}"),
    ):
        template = template.replace(go, jinja)
    environment = jinja2.Environment(keep_trailing_newline=True)  # noqa: S701 - text, not HTML
    return environment.from_string(template).render(messages=messages)


def written(base: Base = BASE, sample: SampleConfig = SAMPLE) -> dict[str, str]:
    return dict(parse(modelfile("tiny.gguf", base, sample)))


def test_model_goes_on_with_the_prompt_and_draws_as_its_profile_does() -> None:
    text = modelfile("Tiny.gguf", BASE, SAMPLE)
    assert text == (
        "# ollama create tiny -f Modelfile\n"
        "FROM ./Tiny.gguf\n"
        'TEMPLATE """{{ .Prompt }}"""\n'
        "PARAMETER num_ctx 64\n"
        "PARAMETER num_predict 32\n"
        "PARAMETER temperature 0.8\n"
        "PARAMETER top_k 0\n"
        "PARAMETER top_p 1\n"
        "PARAMETER min_p 0\n"
        "PARAMETER repeat_penalty 1\n"
        'PARAMETER stop """<|endoftext|>"""\n'
    )


def test_filters_of_the_profile_are_ollamas() -> None:
    sample = SampleConfig(
        temperature=0.0, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.25, max_new_tokens=7, stop=("\n\n",)
    )
    values = parse(modelfile("tiny.gguf", BASE, sample))
    assert dict(values) == {
        "FROM": "./tiny.gguf",
        "TEMPLATE": "{{ .Prompt }}",
        "PARAMETER num_ctx": "64",
        "PARAMETER num_predict": "7",
        "PARAMETER temperature": "0",
        "PARAMETER top_k": "40",
        "PARAMETER top_p": "0.9",
        "PARAMETER min_p": "0.05",
        "PARAMETER repeat_penalty": "1.25",
        "PARAMETER stop": "\n\n",
    }
    assert [value for key, value in values if key == "PARAMETER stop"] == [END, "\n\n"]


def test_large_context_is_written_out() -> None:
    config = BASE.config.model_copy(update={"block_size": 1_048_576})
    assert written(dataclasses.replace(BASE, config=config))["PARAMETER num_ctx"] == "1048576"


def test_stop_strings_that_ollama_cannot_read_are_left_out() -> None:
    sample = SampleConfig(stop=("User:", 'say "hi" now', 'ends"', 'x"""y', "\x00", "two words"))
    values = parse(modelfile("tiny.gguf", BASE, sample))
    assert [value for key, value in values if key == "PARAMETER stop"] == [END, "User:", 'say "hi" now', "two words"]


def test_conversation_is_written_as_the_model_was_tuned() -> None:
    template = written(dataclasses.replace(BASE, chat=ChatTemplate()))["TEMPLATE"]
    assert template.startswith('{{ range .Messages }}{{ if eq .Role "assistant" }}Assistant: {{ .Content }}<|endof')
    assert render(template, CONVERSATION) == END.join(write_prompt(CONVERSATION, ChatTemplate()))


@pytest.mark.parametrize(
    "piece", ['"""', "{{ x }}", "{", "}}", '\\"', "\t\x00\x7f", "\u00a0\U0001f600", "\\n", "a\nb "]
)
def test_signs_of_the_template_language_stay_text(piece: str) -> None:
    chat = ChatTemplate(piece, piece, f"u{piece}", piece, f"a{piece}", piece)
    template = written(dataclasses.replace(BASE, chat=chat))["TEMPLATE"]
    assert render(template, CONVERSATION) == END.join(write_prompt(CONVERSATION, chat))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=12))
def test_any_piece_of_a_template_comes_back(piece: str) -> None:
    chat = ChatTemplate(user_start=piece, answer_start=piece)
    template = written(dataclasses.replace(BASE, chat=chat))["TEMPLATE"]
    assert template == chat_template_go(chat, END)
    assert render(template, CONVERSATION) == END.join(write_prompt(CONVERSATION, chat))

"""The ``Modelfile`` for Ollama: where a GGUF file lies, how prompts are written and how text is drawn.

It owns Ollama's quoting and the template in Go's language. It knows no tensors and writes no file.
"""

from __future__ import annotations

from gptcli.bases.base import Base
from gptcli.chat_template import ChatTemplate
from gptcli.config import SampleConfig
from gptcli.export.hf_tokenizer import end_of_text_name
from gptcli.export.sample_text import new_tokens


def modelfile(file_name: str, base: Base, sample: SampleConfig) -> str:
    """Return the ``Modelfile`` for the GGUF file called ``file_name`` beside it; text is drawn as ``sample`` says.

    A model that was tuned on conversations gets its template; any other goes on with the prompt as it is. Stop
    strings that Ollama's file cannot hold are left out.
    """
    end_of_text = end_of_text_name(base.tokenizer) or ""
    template = "{{ .Prompt }}" if base.chat is None else chat_template_go(base.chat, end_of_text)
    parameters = {
        "num_ctx": str(base.config.block_size),
        "num_predict": str(new_tokens(sample.max_new_tokens, base.config.block_size)),
        "temperature": f"{sample.temperature:g}",
        "top_k": str(sample.top_k or 0),
        "top_p": f"{sample.top_p or 1:g}",
        "min_p": f"{sample.min_p or 0:g}",
        "repeat_penalty": f"{sample.repetition_penalty:g}",
    }
    lines = [
        f"# ollama create {file_name.removesuffix('.gguf').lower()} -f Modelfile",
        f"FROM ./{file_name}",
        f"TEMPLATE {_quoted(template)}",
        *(f"PARAMETER {key} {value}" for key, value in parameters.items()),
        *(f"PARAMETER stop {_quoted(stop)}" for stop in (end_of_text, *sample.stop) if _quotable(stop)),
    ]
    return "\n".join(lines) + "\n"


def chat_template_go(template: ChatTemplate, end_of_text: str) -> str:
    """Return ``template`` for Ollama: the messages as ``write_prompt`` has them, then what an answer begins with.

    Go's templates cannot strip the space around a message, so it stays as it was typed.
    """

    def turn(start: str, end: str) -> str:
        return f"{_literal(start)}{{{{ .Content }}}}{_literal(end)}"

    return (
        "{{ range .Messages }}"
        '{{ if eq .Role "assistant" }}' + turn(f"{template.answer_start} ", template.answer_end + end_of_text) +
        '{{ else if eq .Role "system" }}' + turn(template.system_start, template.system_end) +
        "{{ else }}" + turn(template.user_start, template.user_end) +
        "{{ end }}{{ end }}" + _literal(template.answer_start)
    )  # fmt: skip


def _literal(text: str) -> str:
    """Return text for a Go template: as it is, or as a string of Go's where it has signs that mean something there."""
    shown = {chr(code) for code in range(32, 127)}
    if set(text) <= (shown - set('{}"')) | {"\n"}:
        return text
    escaped = (
        c if c in shown - set('"\\') else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in text
    )
    return f'{{{{ "{"".join(escaped)}" }}}}'


def _quotable(text: str) -> bool:
    """Say whether Ollama reads ``text`` back: it drops what is not printable and ends at three quotes."""
    return bool(text) and '"' not in text[-1:] and '"""' not in text and all(c.isprintable() or c == "\n" for c in text)


def _quoted(text: str) -> str:
    return f'"""{text}"""'

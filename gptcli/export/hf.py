"""A folder for plain transformers: weights, configuration, tokenizer and card; and what transformers makes of it.

It owns what such a folder holds and how it is compared with the model. How tensors and configurations are named is
the business of ``interchange``, the tokenizer that of ``hf_tokenizer``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gptcli.bases.base import Base, build_model
from gptcli.chat_template import write_prompt
from gptcli.config import SampleConfig
from gptcli.errors import ExportError
from gptcli.export.card import Card
from gptcli.export.hf_tokenizer import chat_template_jinja, end_of_text_name, tokenizer_json
from gptcli.export.sample_text import compared_text, conversation, new_tokens, real_text, shown_prompt
from gptcli.files import atomic_write
from gptcli.interchange import to_transformers, to_transformers_config
from gptcli.sample import generate
from gptcli.tokenizer import CharTokenizer

CLASSES = {"gpt2": "GPT2LMHeadModel", "modern": "Qwen3ForCausalLM"}
WEIGHTS = "model.safetensors"
LOGITS_TOLERANCE = 1e-4
LARGE_LOGIT = 50.0  # above it the tolerance grows along: float32 has seven digits
CHECKED_TOKENS = 256
GREEDY_TOKENS = 32
OTHER_FORMAT = "gptcli's own format may do: gptcli export RUN --format safetensors"


def write_hf(base: Base, folder: Path, dtype: str, card: Card) -> None:
    """Write what ``save_pretrained`` would: ``dtype`` is that of ``base``'s weights, which are written as they are."""
    end_of_text = base.tokenizer.end_of_text
    config = to_transformers_config(base.config)
    config.architectures = [CLASSES[base.config.family]]
    config.dtype = getattr(torch, dtype)
    config.bos_token_id = config.eos_token_id = end_of_text
    config.save_pretrained(folder)
    _write_json(folder / "generation_config.json", _generation(base, card.sample))
    _write_json(folder / "tokenizer.json", tokenizer_json(base.tokenizer))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(base))
    if base.chat is not None:
        _write(folder / "chat_template.jinja", chat_template_jinja(base.chat))
    _write(folder / "README.md", card.markdown(_loading(base, card), library="transformers"))
    theirs = to_transformers(base.weights, base.config)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in theirs.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / WEIGHTS)  # safetensors makes it the user's alone


def _generation(base: Base, sample: SampleConfig) -> dict[str, Any]:
    """Return how transformers generates by default: as the profile writes, where it has the same words.

    A text is begun after end-of-text. ``max_new_tokens`` leaves half of the context to the prompt.
    """
    marks = {"bos_token_id": base.tokenizer.end_of_text, "eos_token_id": base.tokenizer.end_of_text}
    known: dict[str, Any] = {key: value for key, value in marks.items() if value is not None}
    if base.tokenizer.end_of_text is not None:
        known["pad_token_id"] = base.tokenizer.end_of_text
    known["max_new_tokens"] = new_tokens(sample.max_new_tokens, base.config.block_size)
    known["do_sample"] = sample.temperature > 0
    if sample.temperature > 0:
        known |= {"temperature": sample.temperature, "top_k": sample.top_k or 0, "top_p": sample.top_p or 1.0}
        known |= {"min_p": sample.min_p} if sample.min_p else {}
    if sample.repetition_penalty != 1:
        known["repetition_penalty"] = sample.repetition_penalty
    return known


def _tokenizer_config(base: Base) -> dict[str, Any]:
    known: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": base.config.block_size,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    if (name := end_of_text_name(base.tokenizer)) is not None:
        known |= {"bos_token": name, "eos_token": name}
    return known


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    # Not files.write_json: these formats are transformers', and a vocabulary's lines need no indenting.
    indent = None if path.name == "tokenizer.json" else 2
    _write(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def _loading(base: Base, card: Card) -> str:
    """Return the section of the card that says how to load the folder."""
    prompt = shown_prompt(card.sample.prompt, base.tokenizer)
    name = end_of_text_name(base.tokenizer)
    special = ""
    if isinstance(base.tokenizer, CharTokenizer):
        special = "Characters that were not in its text are an error here, as in gptcli. "
    if name is not None and name.isprintable() and "`" not in name:
        special += f"The text `{name}` inside of a prompt becomes end-of-text here; in gptcli no text does."
    chat = "\nConversations are written by `tokenizer.apply_chat_template`." if base.chat is not None else ""
    code = f"""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = "."  # this folder, or its name on the hub
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        inputs = tokenizer({json.dumps(prompt, ensure_ascii=False)}, return_tensors="pt")
        print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
        """
    return (
        f"```python\n{textwrap.dedent(code).strip()}\n```\n\n"
        f"The context is {base.config.block_size:,} tokens, prompt and continuation together. {special}{chat}"
    )


@dataclass(frozen=True, slots=True)
class _Ours:
    """What our model says: logits (T, V) of ``ids``, and the tokens it goes on with after ``prompt``."""

    ids: list[int]
    logits: Tensor
    prompt: list[int]
    greedy: list[int]
    greedy_logits: Tensor
    """Those from which each of ``greedy`` was taken, (n, V)."""


def check_hf(base: Base, folder: Path, dtype: str) -> tuple[str, ...]:
    """Load ``folder`` with transformers and compare it with ``base``; returns what was found equal.

    One model is in memory at a time, computing in float32 whatever the weights are stored in, so that the bound is
    the same for each ``dtype``. Raises ``ExportError`` for any difference.
    """
    ours = _run_ours(base)
    try:
        with quietly():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            checks = [_compare_tokenizer(base, tokenizer)]
            if base.chat is not None:
                checks.append(_compare_chat(base, tokenizer))
            checks.append(_compare_stored(base, folder / WEIGHTS, dtype))
            logits, greedy = _run_theirs(base, folder, dtype, ours)
    except ExportError:
        raise
    except Exception as error:  # whatever transformers raises at what it is given
        what = textwrap.shorten(" ".join(str(error).split()) or type(error).__name__, 160, placeholder=" ...")
        raise ExportError(f"transformers cannot use what was written ({what}).", OTHER_FORMAT) from error
    return (*checks, _compare_logits(ours, logits, dtype), _compare_greedy(ours, greedy))


def _run_ours(base: Base) -> _Ours:
    """Run our model over real text, then let it write from the beginning of that text."""
    block_size = base.config.block_size
    text = real_text(base.tokenizer)
    ids = base.tokenizer.encode(text)[: min(block_size, CHECKED_TOKENS)].tolist()
    prompt = text
    while len(base.tokenizer.encode(prompt)) > max(1, min(block_size // 2, 64)) and len(prompt) > 1:
        prompt = prompt[: len(prompt) * 2 // 3]
    begin = base.tokenizer.encode(prompt)[:block_size].tolist()
    model = build_model(base)
    room = min(GREEDY_TOKENS, block_size - len(begin))
    greedy: list[int] = []
    if room > 0:
        settings = SampleConfig(temperature=0.0, max_new_tokens=room)
        greedy = [piece.token_id for piece in generate(model, base.tokenizer, prompt, settings)]
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))[0]
        path = model(torch.tensor([[*begin, *greedy]]))[0, len(begin) - 1 : len(begin) + len(greedy) - 1]
    return _Ours(ids, logits, begin, greedy, path)


def _run_theirs(base: Base, folder: Path, dtype: str, ours: _Ours) -> tuple[Tensor, list[int]]:
    """Return the logits and the tokens of transformers' model, loaded as it is stored and then made float32."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    load: Any = AutoModelForCausalLM.from_pretrained  # its types know one of its two kinds of answer
    model, info = load(folder, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True)
    wrong = sorted(str(name) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[key])
    if wrong:
        raise ExportError(f"transformers finds other tensors than it expects: {', '.join(wrong[:8])}.", OTHER_FORMAT)
    if model.dtype != getattr(torch, dtype):
        raise ExportError(
            f"transformers loads the weights as {model.dtype}, they were written as {dtype}.", OTHER_FORMAT
        )
    end_of_text = base.tokenizer.end_of_text
    if model.generation_config.eos_token_id != end_of_text:
        raise ExportError(
            "generation_config.json names another end-of-text token than the tokenizer has.", OTHER_FORMAT
        )
    model.float().eval()
    greedy: list[int] = []
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([ours.ids])).logits[0].float()
        if ours.greedy:
            prompt = torch.tensor([ours.prompt])
            marks = {"eos_token_id": end_of_text, "pad_token_id": end_of_text if end_of_text is not None else 0}
            settings: Any = GenerationConfig
            model.generation_config = settings(do_sample=False, max_new_tokens=len(ours.greedy), **marks)
            greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt))[0, len(ours.prompt) :].tolist()
    return logits, greedy


def _compare_tokenizer(base: Base, theirs: Any) -> str:  # noqa: ANN401 - transformers has no types
    """Compare the ids of real and of hard text, the text of those ids, and end-of-text."""
    text = compared_text(base.tokenizer)
    ours = base.tokenizer.encode(text).tolist()
    found = theirs(text)["input_ids"]
    if found != ours:
        at = next((n for n, (a, b) in enumerate(zip(found, ours, strict=False)) if a != b), min(len(found), len(ours)))
        raise ExportError(f"transformers' tokenizer gives other ids than ours, from token {at:,} on.", OTHER_FORMAT)
    if theirs.decode(ours) != base.tokenizer.decode(ours):
        raise ExportError("transformers' tokenizer gives another text for the same ids.", OTHER_FORMAT)
    if theirs.eos_token_id != base.tokenizer.end_of_text:
        raise ExportError(f"transformers' tokenizer has end-of-text {theirs.eos_token_id}.", OTHER_FORMAT)
    return f"transformers' tokenizer gives the same {len(ours):,} ids for {len(text):,} characters, and the text back."


def _compare_chat(base: Base, theirs: Any) -> str:  # noqa: ANN401
    """Compare a conversation by the template with the pieces that ours makes of it."""
    assert base.chat is not None
    spoken = conversation(base.tokenizer, base.chat)
    ours: list[int] = []
    for piece in write_prompt(spoken, base.chat):
        if ours and base.tokenizer.end_of_text is not None:
            ours.append(base.tokenizer.end_of_text)
        ours += base.tokenizer.encode(piece).tolist()
    messages = [message._asdict() for message in spoken]
    text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if theirs(text)["input_ids"] != ours:
        raise ExportError(
            "The chat template of the export writes a conversation with other tokens than ours.", OTHER_FORMAT
        )
    return f"Its chat template gives the same {len(ours)} ids for a conversation of {len(spoken)} messages."


def _compare_stored(base: Base, path: Path, dtype: str) -> str:
    """Compare all numbers of the file: a text that is short reaches neither late positions nor rare tokens."""
    expected = to_transformers(base.weights, base.config)
    with safe_open(path, "pt") as file:
        stored = set(file.keys())
        wrong = sorted(stored ^ set(expected))
        for name in sorted(stored & set(expected)):
            found, tensor = file.get_tensor(name), expected[name].to(getattr(torch, dtype))
            if found.dtype != tensor.dtype or not torch.equal(found, tensor):
                wrong.append(name)
    if wrong:
        raise ExportError(f"{path.name} does not hold the model's weights: {', '.join(wrong[:8])}.", OTHER_FORMAT)
    return f"All {len(expected)} tensors of {path.name} are the model's in {dtype}, number by number."


def _compare_logits(ours: _Ours, logits: Tensor, dtype: str) -> str:
    if logits.shape != ours.logits.shape:
        raise ExportError(
            f"transformers computes logits {tuple(logits.shape)}, not {tuple(ours.logits.shape)}.", OTHER_FORMAT
        )
    difference = float((logits - ours.logits).abs().max())
    allowed = LOGITS_TOLERANCE * max(1.0, float(ours.logits.abs().max()) / LARGE_LOGIT)
    if not difference <= allowed:  # NaN is no less either
        raise ExportError(
            f"transformers' logits differ from ours by up to {difference:.2g}, {allowed:.2g} was allowed.", OTHER_FORMAT
        )
    rounded = "" if dtype == "float32" else f" with the weights rounded to {dtype}"
    to = f"to {difference:.1g}" if difference else "exactly"
    return f"transformers' logits equal ours{rounded} {to} on {len(ours.ids)} tokens ({allowed:.2g} is allowed)."


def _compare_greedy(ours: _Ours, theirs: list[int]) -> str:
    """Compare the likeliest continuations; two tokens that tie within the tolerance may stand for each other."""
    same = next((n for n, (a, b) in enumerate(zip(ours.greedy, theirs, strict=False)) if a != b), None)
    if same is None and len(theirs) == len(ours.greedy):
        return f"It goes on with the same {len(theirs)} likeliest tokens."
    if same is not None:
        row = ours.greedy_logits[same]
        if float(row[ours.greedy[same]] - row[theirs[same]]) <= 2 * LOGITS_TOLERANCE:
            return f"It goes on with the same {same} likeliest tokens, then with one that ties with ours."
    raise ExportError("transformers' model goes on with other tokens than ours.", OTHER_FORMAT)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from writing warnings and progress; its settings are put back afterwards."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging  # it has no types
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()

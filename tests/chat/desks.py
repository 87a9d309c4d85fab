"""A tiny model that knows one text by heart, so that what it writes is known before, and a desk for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch

from gptcli.chat.events import ChatEvent
from gptcli.chat.log import ChatLog
from gptcli.chat.session import Session
from gptcli.chat_template import ChatTemplate
from gptcli.config import ModelConfig, SampleConfig
from gptcli.copies.check import CopyIndex
from gptcli.decoder import Decoder
from gptcli.model import GPT
from gptcli.runs import RunDir
from gptcli.tokenizer import CharTokenizer
from gptcli.writing import WritingModel

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
END = "\0"
"""Stands for end-of-text in what a model learns."""
GREEDY = SampleConfig(temperature=0.0, max_new_tokens=8)


def learned(
    text: str, *, characters: str, chat: bool = False, name: str = "parrot", block_size: int = 32
) -> WritingModel:
    """Train a tiny model until it writes ``text`` from any of its characters on, again and again."""
    tokenizer = CharTokenizer("".join(sorted(set(characters))), end_of_text=END in text)
    ids = torch.tensor(
        [tokenizer.end_of_text if character == END else int(tokenizer.encode(character)[0]) for character in text]
    )
    config = ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=block_size, vocab_size=tokenizer.vocab_size)
    torch.manual_seed(3)
    model = GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    endless = ids.repeat(2 + block_size * 4 // len(ids))
    for step in range(120):
        starts = [(step * 7 + row * 5) % len(ids) for row in range(8)]
        windows = torch.stack([endless[start : start + block_size + 1] for start in starts])
        logits = model(windows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.3, "the model knows its text"
    template = ChatTemplate() if chat else None
    return WritingModel(name, None, None, None, Decoder(config, model.state_dict()), tokenizer, template, GREEDY)


class Desk:
    """A session with what its tests ask of it; ``send`` feeds lines and keeps all events of the last one."""

    def __init__(
        self,
        model: WritingModel,
        *others: WritingModel,
        log: ChatLog | None = None,
        copies: Callable[[RunDir], CopyIndex] | None = None,
        opens: Callable[[str], WritingModel] | None = None,
        **settings: object,
    ) -> None:
        self.opened: list[str] = []
        self._others = {other.name: other for other in others}
        self.session = Session(
            model,
            open_model=opens or self._open,
            open_copies=copies or _no_copies,
            log=log,
            config=model.defaults.model_copy(update=settings),
        )

    def _open(self, name: str) -> WritingModel:
        from gptcli.errors import RunError

        self.opened.append(name)
        if name not in self._others:
            raise RunError(f"There is no run called {name!r}.", "gptcli runs list shows them all.")
        return self._others[name]

    @property
    def text(self) -> str:
        return self.session.text

    def send(self, *lines: str) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        for line in lines:
            events = list(self.session.feed(line))
        return events

    def stop_after(self, n_events: int, line: str) -> list[ChatEvent]:
        """Feed a line and close its iterator after some events."""
        iterator = self.session.feed(line)
        events = [next(iterator) for _ in range(n_events)]
        iterator.close()  # type: ignore[attr-defined]
        return events


def _no_copies(run: RunDir) -> NoReturn:
    raise AssertionError(f"nobody asked for copies of {run.name}")


def only(events: Iterable[ChatEvent], kind: type[Any]) -> Any:  # noqa: ANN401 - the one event of that kind
    """Return the one event of a kind."""
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, found
    return found[0]

"""What ``sample`` and ``chat`` write with: a model by its name, ready to write, and what is known of it.

It owns how a name becomes a decoder and which settings it draws with unless told otherwise. What is drawn is
``sample``'s business, where weights come from that of ``bases``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gptcli.bases.opening import open_base, run_named
from gptcli.chat_template import ChatTemplate
from gptcli.checkpoint_folders import Which
from gptcli.config import SampleConfig, TrainConfig
from gptcli.decoder import Decoder, WeightFormat
from gptcli.device import choose_setup, detect
from gptcli.runs import RunDir, default_settings
from gptcli.tokenizer import Tokenizer

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WritingModel:
    """A model that is ready to write."""

    name: str
    """The run's name, or what the user typed for a model that is no run."""
    run: RunDir | None
    step: int | None
    """Of the checkpoint, for a run."""
    val_loss: float | None
    """Of the checkpoint, in nats a token, where it is known."""
    decoder: Decoder
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    """The template of a run that was tuned on conversations."""
    defaults: SampleConfig
    """The run's own settings, without its prompt: that is for the samples drawn while training."""


def open_writing_model(
    name: str,
    *,
    which: Which = "best",
    device: str | None = None,
    weight_format: WeightFormat = "float32",
    on_notice: Say = lambda _: None,
    on_progress: Say = lambda _: None,
) -> WritingModel:
    """Open what a name stands for, on the best device unless one is named; of a run, its best or latest checkpoint.

    Raises as ``open_base``, and ``DeviceError`` for a device that is not there.
    """
    setup = choose_setup(TrainConfig(device=device or "auto", dtype="float32", compile=False), detect())
    base = open_base(name, which=which, on_notice=on_notice, on_progress=on_progress)
    for line in base.notes:
        on_notice(line)
    decoder = Decoder(base.config, base.weights, weight_format=weight_format, device=setup.device)
    run = run_named(name) if base.kind == "run" else None
    step = int(base.origin["step"]) if run is not None else None
    if run is not None and not run.has_ended:
        on_notice(f"The run {run.name} has not ended yet; this is its checkpoint of step {step:,}.")
    return WritingModel(
        run.name if run else name,
        run,
        step,
        base.val_loss,
        decoder,
        base.tokenizer,
        base.chat,
        default_settings(run),
    )

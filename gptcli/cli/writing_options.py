"""What ``sample`` and ``chat`` share: naming a model, how it is kept in memory, and how text is drawn from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptcli.cli.common import importing, note, progress, wrong_options
from gptcli.cli.completion import complete_models

if TYPE_CHECKING:
    from gptcli.checkpoint_folders import Which
    from gptcli.config import SampleConfig
    from gptcli.decoder import WeightFormat
    from gptcli.runs import RunDir
    from gptcli.writing import WritingModel

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        autocompletion=complete_models,
        help="A run, gpt2 to gpt2-xl, a Hugging Face name, a folder, or nanogpt:FILE; else the newest run.",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(
        metavar="FORMAT",
        help="Number format the weights are kept in: float32, or bfloat16 and float16, which halve memory and are "
        "faster.",
    ),
]
Quantize = Annotated[
    Literal["int8"] | None,
    typer.Option(
        metavar="FORMAT",
        help="int8 keeps weights in 8 bits: a quarter of the memory, fastest on a CPU, not quite the same text.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens to draw at most; 256 unless the run's profile says otherwise."),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="0 takes the likeliest token, 1 draws as trained; 0.8 unless the run's profile says otherwise.",
    ),
]
TopK = Annotated[int | None, typer.Option(metavar="K", help="Draw among the k likeliest tokens.")]
TopP = Annotated[
    float | None, typer.Option(metavar="P", help="Draw among the likeliest that together have this probability.")
]
MinP = Annotated[
    float | None, typer.Option(metavar="P", help="Leave out what is less likely than this share of the top.")
]
Penalty = Annotated[float | None, typer.Option(metavar="X", help="Above 1: repeat less.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text. May be repeated.")]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="The same seed gives the same text, another seed gives another text; 1337 unless the run's profile says "
        "otherwise.",
    ),
]


def drawing_options(
    max_new_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    stop: list[str] | None,
    seed: int | None,
) -> dict[str, Any]:
    """Return the options that both commands have, by the names that ``SampleConfig`` has for them."""
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop) if stop else None,
        "seed": seed,
    }


def named_model(name: str | None) -> tuple[str, RunDir | None]:
    """Return what to open, without a name the newest run, and the run that it is; None for what is no run."""
    with importing():
        from gptcli.bases.opening import run_named
        from gptcli.runs import find_run

    if name is not None:
        return name, run_named(name)
    found = find_run()
    note(f"The newest run is {found.name}.")
    return found.name, found


def settings(run: RunDir | None, options: dict[str, Any], command: str = "sample") -> SampleConfig:
    """Lay the options that were given (not None) over a run's own settings; every impossible value is named at once."""
    from pydantic import ValidationError

    from gptcli.config import SampleConfig
    from gptcli.runs import default_settings

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return SampleConfig.model_validate({**default_settings(run).model_dump(), **given})
    except ValidationError as error:
        raise wrong_options(error, f"gptcli {command} --help explains them.") from error


def weight_format(dtype: Literal["float32", "bfloat16", "float16"], quantize: Literal["int8"] | None) -> WeightFormat:
    """Return the number format that the two options ask for; the two of them exclude each other."""
    if quantize is None:
        return dtype
    if dtype != "float32":
        raise typer.BadParameter(
            f"--quantize {quantize} and --dtype {dtype} both say how weights are kept; choose one."
        )
    return quantize


def open_model(name: str, *, which: Which, device: str | None, weights: WeightFormat) -> WritingModel:
    """Open a model for writing, and show what is going on meanwhile."""
    from gptcli.writing import open_writing_model

    with progress() as going_on:
        return open_writing_model(
            name,
            which=which,
            device=device,
            weight_format=weights,
            on_notice=going_on.note,
            on_progress=going_on.show,
        )

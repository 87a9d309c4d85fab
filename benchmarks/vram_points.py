"""Five measurements of a card's memory, of somebody else's, beside what ``gptcli plan`` reckons for today's torch.

    python benchmarks/vram_points.py [--json]

Measured by the owner of an RTX 3070 in early 2023: nanoGPT with ``torch.compile`` on a nightly torch 2.0, memory as
nvidia-smi shows it, "stable VRAM usage during training" (docs/workflows/rtx3070-openwebtext.md). Reckoned here: the
same shapes of family gpt2 with AdamW in bfloat16, not compiled. No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from gptcli.config import ModelConfig, RunProfile, TrainConfig
from gptcli.dry_run import memory_at
from gptcli.places import find_place
from gptcli.plan import count_parameters

# n_layer, n_head, n_embd, block_size, batch_size, MB that were measured.
POINTS = (
    (8, 8, 128, 64, 12, 1938),
    (8, 8, 128, 128, 12, 2424),
    (8, 8, 128, 256, 12, 3924),
    (8, 8, 128, 512, 12, 6836),
    (10, 10, 500, 256, 12, 5760),
)
# As nanoGPT pads GPT-2's 50,257.
VOCAB_SIZE = 50_304


def rows() -> list[dict[str, Any]]:
    """Return each point with the plan's peak and the parts it is made of, in MB."""
    found = []
    for n_layer, n_head, n_embd, block_size, batch_size, measured in POINTS:
        shape: dict[str, Any] = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "block_size": block_size}
        model = ModelConfig(family="gpt2", vocab_size=VOCAB_SIZE, **shape)
        profile = RunProfile(model=model, train=TrainConfig(batch_size=batch_size, optimizer="adamw"))
        plan = memory_at(profile, find_place(profile.train, "RTX 3070"))
        held = plan.weights + plan.gradients + plan.optimizer
        sizes = {"held": held, "activations": plan.activations, "logits": plan.logits, "planned": plan.peak}
        found.append(
            {
                **shape,
                "batch_size": batch_size,
                "n_params": count_parameters(model),
                "measured_mb": measured,
                **{f"{name}_mb": round(size / 1e6) for name, size in sizes.items()},
            }
        )
    return found


def main() -> None:
    """Print the table, or a JSON line for each point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="a JSON line for each point in place of the table")
    arguments = parser.parse_args()
    if arguments.json:
        for row in rows():
            print(json.dumps(row))
        return
    print("| n_layer, n_head, n_embd | block_size, batch_size | parameters | measured 2023, MB | planned today, MB "
          "| weights, gradients, AdamW | activations | logits |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    line = (
        "| {n_layer}, {n_head}, {n_embd} | {block_size}, {batch_size} | {n_params:,} | {measured_mb:,} "
        "| {planned_mb:,} | {held_mb:,} | {activations_mb:,} | {logits_mb:,} |"
    )
    for row in rows():
        print(line.format(**row))


if __name__ == "__main__":
    main()

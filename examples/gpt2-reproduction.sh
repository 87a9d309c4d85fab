#!/bin/sh
# GPT-2 (124M) made again from nothing on OpenWebText, and beside it the published GPT-2 on the same val split.
#
# Costs: 24 GB of downloads, 90 GB of disk, and two weeks of one A100; PROCESSES="--nproc 8" trains on eight.
# Leaves: corpora/openwebtext, runs/gpt2-124m and runs/gpt2-published, loss.png; the text goes to stdout.
# Again: the same command goes on where it was stopped and does nothing twice.

# Options are several words each:
# shellcheck disable=SC2086
set -eu

SOURCE=${SOURCE:-openwebtext}
FETCH_OPTIONS=${FETCH_OPTIONS:-}
PROFILE=${PROFILE:-gpt2-124m}
TRAIN_OPTIONS=${TRAIN_OPTIONS:-}
PROCESSES=${PROCESSES:-}
BASE=${BASE:-gpt2}
BASE_OPTIONS=${BASE_OPTIONS:---set val_fraction=0.0005 --set block_size=1024 --set eval_tokens=1000000}

corpus=$(gptcli fetch "$SOURCE" --name openwebtext $FETCH_OPTIONS)

if [ -d runs/gpt2-124m ]; then
  run=$(gptcli train --resume --run gpt2-124m $PROCESSES)
else
  tokens=$(gptcli prepare "$corpus" --profile "$PROFILE")
  gptcli train "$tokens" --profile "$PROFILE" --dry-run $TRAIN_OPTIONS >&2
  run=$(gptcli train "$tokens" --profile "$PROFILE" --run gpt2-124m $TRAIN_OPTIONS $PROCESSES)
fi
gptcli runs plot "$run" -o loss.png
gptcli eval "$run" >&2

# Row 0 of this table is the published model as it came; what follows is what OpenWebText still teaches it.
if [ -d runs/gpt2-published ]; then
  published=$(gptcli train --resume --run gpt2-published)
else
  published=$(gptcli finetune "$corpus" --from "$BASE" --run gpt2-published $BASE_OPTIONS)
fi
gptcli runs compare "$run" "$published"
gptcli sample "$run" --prompt "In a shocking finding, scientists discovered" --num-samples 2

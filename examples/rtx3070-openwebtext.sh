#!/bin/sh
# A GPT of 57M parameters on OpenWebText, on a graphics card of 8 GB, in an evening; then you write with it.
#
# Costs: 2.4 GB of downloads for 4 GB of text, 12 GB of disk, six hours of the card (BUDGET), within 6 GB of its memory.
# Leaves: corpora/openwebtext, runs/openwebtext, loss.png; the texts go to stdout.
# Again: the same command goes on where it was stopped and does nothing twice.

# Options are several words each:
# shellcheck disable=SC2086
set -eu

SOURCE=${SOURCE:-openwebtext}
LIMIT=${LIMIT:-4GB}                           # of text; six hours of this card see less than that once
FETCH_OPTIONS=${FETCH_OPTIONS:-}
PROFILE=${PROFILE:-rtx3070-openwebtext}
BUDGET=${BUDGET:-6h}
TRAIN_OPTIONS=${TRAIN_OPTIONS:-}

if [ -d runs/openwebtext ]; then
  run=$(gptcli train --resume --run openwebtext)
else
  corpus=$(gptcli fetch "$SOURCE" --name openwebtext --limit-bytes "$LIMIT" $FETCH_OPTIONS)
  tokens=$(gptcli prepare "$corpus" --profile "$PROFILE")
  gptcli train "$tokens" --profile "$PROFILE" --dry-run $TRAIN_OPTIONS >&2   # the memory it takes, part by part
  run=$(gptcli train "$tokens" --profile "$PROFILE" --budget "$BUDGET" --run openwebtext $TRAIN_OPTIONS)
fi
gptcli runs plot "$run" -o loss.png

# The same prompts after each run show what changed. A prompt a line; settings may stand beside it.
[ -f prompts.jsonl ] || cat >prompts.jsonl <<'END'
{"prompt": "Recipe for lasagna:\n", "temperature": 0.7}
{"prompt": "The city council voted on Tuesday to"}
{"prompt": "In this section we show that the method converges more rapidly"}
END
gptcli sample "$run" --prompt-file prompts.jsonl

if [ -t 0 ]; then
  gptcli chat "$run"                          # /retry /more /undo /set temperature 0.7 ...
fi

#!/bin/sh
# Write like Agatha Christie: a small GPT learns one Poirot novel from nothing, then gpt2-large goes on with the same
# novel, and both write on from your prompt.
#
# Costs: for the small GPT a few minutes on two CPU cores; for gpt2-large a download of 3.2 GB and 4 GB of memory.
# Leaves: corpora/poirot, runs/poirot and runs/poirot-tuned, loss.png, report.html; the texts go to stdout.
# Again: the same command goes on where it was stopped and does nothing twice.

# Options are several words each:
# shellcheck disable=SC2086
set -eu

SOURCE=${SOURCE:-poirot}                      # or gutenberg:61262, the stories; or a file of your own
FETCH_OPTIONS=${FETCH_OPTIONS:-}
PROFILE=${PROFILE:-poirot}
TRAIN_OPTIONS=${TRAIN_OPTIONS:-}
BASE=${BASE:-gpt2-large}                      # gpt2 is a sixth of it
TUNE_PROFILE=${TUNE_PROFILE:-finetune-poirot}
TUNE_OPTIONS=${TUNE_OPTIONS:-}                # --budget 30m, say
PROMPT_FILE=${PROMPT_FILE:-prompt.txt}

# A model that completes text wants the beginning of a story, not an order to write one.
[ -f "$PROMPT_FILE" ] || cat >"$PROMPT_FILE" <<'END'
The Affair of the Silver Inkstand

"It is a small matter, my friend," said Poirot, "but the small matters are never small."
Nobody in the house had slept. On the carpet of the library lay
END

corpus=$(gptcli fetch "$SOURCE" --name poirot $FETCH_OPTIONS)

# From nothing.
if [ -d runs/poirot ]; then
  run=$(gptcli train --resume --run poirot)
else
  run=$(gptcli train "$corpus" --profile "$PROFILE" --run poirot $TRAIN_OPTIONS)
fi
gptcli runs plot "$run" -o loss.png
gptcli sample "$run" --prompt-file "$PROMPT_FILE" --check-copies

# From a model that knows English already.
if [ -d runs/poirot-tuned ]; then
  tuned=$(gptcli train --resume --run poirot-tuned)
else
  gptcli finetune "$corpus" --from "$BASE" --profile "$TUNE_PROFILE" --dry-run >&2   # what it needs
  tuned=$(gptcli finetune "$corpus" --from "$BASE" --profile "$TUNE_PROFILE" --run poirot-tuned $TUNE_OPTIONS)
fi
gptcli sample "$tuned" --prompt-file "$PROMPT_FILE" --check-copies
gptcli runs compare "$run" "$tuned" --max-new-tokens 0     # in bits per byte, for their tokens differ
gptcli runs report "$tuned" -o report.html

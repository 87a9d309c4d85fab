#!/bin/sh
# From recordings that you own to a GPT that writes as they sound: Whisper writes them down, the announcements of
# chapters are left out, a small GPT learns them from nothing, and GPT-2 goes on with them.
#
# Costs: hours of writing down on a CPU (it says how many are left), then minutes of training; downloads of 0.5 GB for
# Whisper (small), 0.5 GB for gpt2 and 6.4 GB for gpt2-xl. Needs the extra: pip install -e '.[audio]'
# Leaves: corpora/hitchhikers, runs/hitchhikers and runs/hitchhikers-tuned, loss.png; the texts go to stdout.
# Again: the same command goes on where it was stopped, recording by recording, and does nothing twice.

# Options are several words each:
# shellcheck disable=SC2086
set -eu

RECORDINGS=${RECORDINGS:-audiobooks}          # a folder, in the order of its names
FETCH_OPTIONS=${FETCH_OPTIONS:---language en}
PROFILE=${PROFILE:-hitchhikers}
TRAIN_OPTIONS=${TRAIN_OPTIONS:-}
BASE=${BASE:-gpt2}
TUNE_OPTIONS=${TUNE_OPTIONS:-}
WRITER=${WRITER-gpt2-xl}                      # empty: no published model writes beside yours
PROMPT=${PROMPT:-What is the answer to life, the universe, and everything?}

corpus=$(gptcli fetch "$RECORDINGS" --as audio --name hitchhikers --drop-lines '^\W*Chapter\b' $FETCH_OPTIONS)

if [ -d runs/hitchhikers ]; then
  run=$(gptcli train --resume --run hitchhikers)
else
  run=$(gptcli train "$corpus" --profile "$PROFILE" --run hitchhikers $TRAIN_OPTIONS)
fi
gptcli runs plot "$run" -o loss.png
gptcli sample "$run" --prompt "$PROMPT" --num-samples 3 --max-new-tokens 200

if [ -d runs/hitchhikers-tuned ]; then
  tuned=$(gptcli train --resume --run hitchhikers-tuned)
else
  tuned=$(gptcli finetune "$corpus" --from "$BASE" --run hitchhikers-tuned $TUNE_OPTIONS)
fi
gptcli sample "$tuned" --prompt "$PROMPT" --num-samples 3 --max-new-tokens 200 --output texts   # to be read aloud

if [ -n "$WRITER" ]; then
  gptcli sample "$WRITER" --quantize int8 --prompt "$PROMPT" --num-samples 5 --max-new-tokens 100
fi

#!/bin/sh
# Shakespeare by characters, then any book of Project Gutenberg the same way.
#
# Costs: two minutes on two CPU cores for Shakespeare, about a minute for a book; 100 MB of disk, no GPU.
# Leaves: corpora/shakespeare and corpora/book, runs/shakespeare and runs/book, loss.png; the texts go to stdout.
# Again: the same command goes on where it was stopped and does nothing twice.

# Options are several words each:
# shellcheck disable=SC2086
set -eu

SOURCE=${SOURCE:-shakespeare}
PROFILE=${PROFILE:-laptop-2min}               # shakespeare-char-cpu takes 5 s, shakespeare-char is for a GPU
BOOK=${BOOK:-gutenberg:1513}                  # a number, or "gutenberg:Romeo and Juliet", or a file of your own
FETCH_OPTIONS=${FETCH_OPTIONS:-}
BOOK_PROFILE=${BOOK_PROFILE:-macbook}
TRAIN_OPTIONS=${TRAIN_OPTIONS:-}              # --budget 5m, say

if [ -d runs/shakespeare ]; then
  run=$(gptcli train --resume --run shakespeare)
else
  corpus=$(gptcli fetch "$SOURCE" --name shakespeare $FETCH_OPTIONS)
  run=$(gptcli train "$corpus" --profile "$PROFILE" --run shakespeare $TRAIN_OPTIONS)
fi
gptcli eval "$run" >&2
gptcli sample "$run" --prompt "ROMEO:" --num-samples 2

# Any book: without Gutenberg's licence and credits, and by characters as well.
if [ -d runs/book ]; then
  run=$(gptcli train --resume --run book)
else
  corpus=$(gptcli fetch "$BOOK" --name book $FETCH_OPTIONS)
  tokens=$(gptcli prepare "$corpus" --tokenizer char)
  run=$(gptcli train "$tokens" --profile "$BOOK_PROFILE" --run book $TRAIN_OPTIONS)
fi
gptcli runs plot "$run" -o loss.png
gptcli sample "$run" --check-copies

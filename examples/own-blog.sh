#!/bin/sh
# A GPT on nothing but a blog: every post through its JSON API (Datasette, WordPress ...) or from its front page.
#
# Costs: a request a page of the list at a polite pace, then ten minutes on a laptop (MINUTES); 200 MB of disk.
# Leaves: corpora/blog, configs/blog.yaml, runs/blog, loss.png, report.html; the texts go to stdout.
# Again: the same command goes on where it was stopped and does nothing twice. RUN=blog2 begins anew with new posts.

# Options are several words each:
# shellcheck disable=SC2086
set -eu

SOURCE=${SOURCE:-simonwillison-blog}          # yours: https://example.org/ or the address of its API
FETCH_OPTIONS=${FETCH_OPTIONS:-}              # where guessing fails: --items data.posts --text-fields title,body
MINUTES=${MINUTES:-10}
PROFILE=${PROFILE:-}                          # empty: one is made for the text, this machine and MINUTES
TRAIN_OPTIONS=${TRAIN_OPTIONS:-}
RUN=${RUN:-blog}
PROMPT=${PROMPT:-Datasette is}

if [ -d "runs/$RUN" ]; then
  run=$(gptcli train --resume --run "$RUN")
else
  corpus=$(gptcli fetch "$SOURCE" --name blog $FETCH_OPTIONS)
  gptcli corpora show blog >&2                # what came home, and what was left out
  if [ -z "$PROFILE" ]; then
    PROFILE=$(gptcli profiles suggest "$corpus" --minutes "$MINUTES" --output configs/blog.yaml --force)
  fi
  run=$(gptcli train "$corpus" --profile "$PROFILE" --run "$RUN" $TRAIN_OPTIONS)
fi
gptcli runs plot "$run" -o loss.png
gptcli runs report "$run" -o report.html
gptcli sample "$run" --prompt "$PROMPT" --num-samples 3 --check-copies

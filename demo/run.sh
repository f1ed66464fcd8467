#!/usr/bin/env bash
# demo/run.sh LAMINA: build, build again, edit, plan, ask why; in a temporary folder that is removed at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lamina=$(command -v "${1:-lamina}") && lamina=$(cd "$(dirname "$lamina")" && pwd)/$(basename "$lamina")
python=$(dirname "$lamina")/python
[ -x "$python" ] || python=python3
work=$(mktemp -d "${TMPDIR:-/tmp}/lamina-demo.XXXXXX")
cleanup() {
  cd /
  # As an ordinary user with sub-ids, files of other owners may be in the store: only a user namespace may remove those.
  chmod -R u+rwX "$work" 2>/dev/null || true
  rm -rf "$work" 2>/dev/null || unshare --map-auto --map-root-user rm -rf "$work" 2>/dev/null || echo "left behind: $work"
}
trap cleanup EXIT
trap 'exit 141' PIPE
export LAMINA_ROOT=$work/store

bold= plain=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
run() {
  printf '%s$ lamina %s%s\n' "$bold" "$*" "$plain"
  "$lamina" "$@" 2>&1
}

mkdir "$work/app"
cd "$work/app"
cat > Dockerfile <<'DOCKERFILE'
FROM base:1 AS words
COPY words.txt /in/
RUN sleep 1; tr a-z A-Z < /in/words.txt | sort > /words

FROM base:1 AS about
ARG VERSION=1.0
RUN sleep 1; echo "greeter $VERSION" > /about

FROM base:1
COPY --from=about /about /share/
COPY --from=words /words /share/
COPY --chmod=755 greet.sh /bin/greet
RUN greet > /share/tested
CMD ["greet"]
DOCKERFILE
printf 'hello\nworld\n' > words.txt
printf '#!/bin/sh\ncat /share/about /share/words\n' > greet.sh

made_of=$("$python" "$here/base.py" "$work/base.tar")
say "A base image out of this machine ($made_of); nothing is fetched."
run import "$work/base.tar" base:1 | sed "s|$work/||"

build() { run build --progress plain -t app:1 . | sed '/^RUN .*(#[0-9]*)$/d; /^#[0-9]* |/d; /^sha256:/d'; } # finished steps only

say "First build: two stages at once."
if ! build > "$work/first"; then
  cat "$work/first"
  grep -q 'RUN cannot be executed here' "$work/first" || exit 1
  say "No RUN works on this machine as it is; \`lamina doctor\` says what would help. What needs no RUN still works:"
  run plan . || true
  exit 0
fi
cat "$work/first"

say "Again: nothing changed."
build

say "One word more. What would a build do? (nothing runs; exit code 3 says: work to do)"
echo moon >> words.txt
run plan . || [ $? = 3 ]

say "Do it: the other stage stays as it is."
build

say "Same words in another order: the sorted list comes out equal, so what follows it is not built again."
printf 'moon\nworld\nhello\n' > words.txt
build

say "And later: why was that?"
run why app:1

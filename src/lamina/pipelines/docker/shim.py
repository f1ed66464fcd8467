"""The script that a step sees as `docker`. It needs sh, cat, mkdir, mkfifo and rm, and tar for a build context outside of the clone directory.

One call is a folder in the mailbox with pipes. The script writes its words and asks; from then on it does what it is told, one line each on `ctl`:

    stdin            send standard input to `in`, from now on, in the background
    read PATH        reply y or n on `rep`; with y, send the file to `in`
    write PATH       the same the other way: with y, what comes from `file` becomes the file
    tar PATH         the same, a folder as tar
    var NAME         the same, an exported variable
    exit N           the end

`out` and `err` are its own output. All paths are opened by the step itself, so it reaches what it could reach anyway.
"""

from __future__ import annotations

SHIM = r"""#!/bin/sh
# lamina's own docker: for machines without docker's CLI. What it does is done by `lamina pipeline run`, outside of this step.
_lamina_box=@BOX@
[ -p "$_lamina_box/ask" ] || { echo 'docker: this step has no docker service' >&2; exit 1; }
_lamina_n=0
until mkdir "$_lamina_box/$$.$_lamina_n" 2>/dev/null; do
  _lamina_n=$((_lamina_n + 1))
  [ $_lamina_n -lt 10000 ] || { echo 'docker: the mailbox of the docker service cannot be used' >&2; exit 125; }
done
_lamina_id=$$.$_lamina_n
_lamina_call=$_lamina_box/$_lamina_id
mkfifo "$_lamina_call/ctl" "$_lamina_call/rep" "$_lamina_call/in" "$_lamina_call/out" "$_lamina_call/err" "$_lamina_call/file" || exit 125
{ for _lamina_a in "$PWD" "${DOCKER_CONFIG:-${HOME:-/}/.docker}" "$@"; do printf '%s\0' "$_lamina_a"; done; } > "$_lamina_call/words" || exit 125
exec 3<&0
cat "$_lamina_call/out" </dev/null &
_lamina_out=$!
cat "$_lamina_call/err" >&2 </dev/null &
_lamina_err=$!
_lamina_in=
trap 'echo "$_lamina_id stop" > "$_lamina_box/ask"' TERM INT HUP
# Open for both ways, and before anybody is asked: no waiting for a partner, which a signal could break off, and nothing is lost when he is quicker.
exec 4<> "$_lamina_call/ctl"
echo "$_lamina_id" > "$_lamina_box/ask"
_lamina_code=125
_yes() { echo y > "$_lamina_call/rep"; }
_no() { echo n > "$_lamina_call/rep"; }
while :; do
  # It never ends, so a read that fails was interrupted by a signal.
  IFS= read -r _lamina_line <&4 || continue
  _lamina_what=${_lamina_line#* }
  case $_lamina_line in
    stdin) cat <&3 > "$_lamina_call/in" 2>/dev/null & _lamina_in=$! ;;
    'read '*) if [ -f "$_lamina_what" ] && [ -r "$_lamina_what" ]; then _yes; cat < "$_lamina_what" > "$_lamina_call/in"; else _no; fi ;;
    'write '*) if ( : > "$_lamina_what" ) 2>/dev/null; then _yes; cat "$_lamina_call/file" > "$_lamina_what"; else _no; fi ;;
    'tar '*) if [ -d "$_lamina_what" ] && command -v tar >/dev/null 2>&1; then _yes; tar -C "$_lamina_what" -cf - . > "$_lamina_call/in"; else _no; fi ;;
    'var '*) if eval "[ \"\${$_lamina_what+x}\" ]"; then _yes; ( eval "printf '%s' \"\$$_lamina_what\"" > "$_lamina_call/in" ); else _no; fi ;;
    'exit '*) _lamina_code=$_lamina_what; break ;;
  esac
done
[ -z "$_lamina_in" ] || { kill -s PIPE "$_lamina_in"; } 2>/dev/null
wait "$_lamina_out" "$_lamina_err" 2>/dev/null
rm -rf "$_lamina_call"
exit "$_lamina_code"
"""


def shim(box: str) -> bytes:
    """`box`: the mailbox as the step sees it."""
    return SHIM.replace("@BOX@", box).encode()

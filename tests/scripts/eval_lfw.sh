# The figures of `mien eval lfw` against a plain computation of the protocol.
set -eu
exec python3 "$2/tests/scripts/eval_lfw.py" "$1" "$2"

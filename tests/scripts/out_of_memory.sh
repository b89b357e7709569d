# Training programs that run out of memory.
set -eu
exec python3 "$2/tests/scripts/out_of_memory.py" "$1" "$2"

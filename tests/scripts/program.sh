# The contracts of the `mien` program that scripts rely on.
set -eu
exec python3 "$2/tests/scripts/program.py" "$1" "$2"

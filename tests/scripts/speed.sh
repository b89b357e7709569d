# A coarse guard against a kernel that fell off its fast path: the share of the machine's own peak that a net reaches, by CPU time on one thread. Peak and work are
# measured in one process, so a slow or busy machine moves both. The limits are a third of what was measured when they were set (docs/performance.md holds real
# figures): below one, something is broken, not noisy. Each has five tries.
set -eu
exec python3 "$2/tests/scripts/speed.py" "$1"

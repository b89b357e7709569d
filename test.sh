#!/usr/bin/env bash
# Installs what the tests need, builds, runs everything. Ends with the runner's summary and the skipped tests with their reasons.
set -euo pipefail
cd "$(dirname "$0")"
tools/install-packages test
export MIEN_DATA="${MIEN_DATA:-$PWD/../shared/data}"
build="${MIEN_BUILD_DIR:-build}"
gpu=$(nvidia-smi -L >/dev/null 2>&1 && echo native || echo 90-real)  # with a CUDA toolkit: kernels for this GPU, or for one kind
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMIEN_CUDA_ARCHITECTURES="$gpu" -DMIEN_BUILD_TESTS=ON >/dev/null  # demo.sh turns them off in the same folder
cmake --build "$build"
status=0
(cd "$build" && ctest --no-tests=error --output-on-failure -j "$(nproc)" | tee ctest.txt) || status=$?
echo
echo "Skipped tests and why:"
grep -h "^MIEN-SKIP:" "$build/Testing/Temporary/LastTest.log" 2>/dev/null | sort | uniq -c || echo "  none"
count=$(grep -c "^MIEN-SKIP:" "$build/Testing/Temporary/LastTest.log" 2>/dev/null || true)
echo "$count skipped"
# The summary stands last, for whoever reads only the end.
grep -hE "% tests passed|^Total Test time" "$build/ctest.txt"
exit "$status"

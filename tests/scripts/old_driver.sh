# A driver that is older than the CUDA run-time of the build: exit code 69, both versions, and how to go on; --device auto takes the CPU.
set -eu
trap 'echo "failed at line $LINENO"' ERR
build=$1 source=$2
"$build/bin/mien" --version | grep -q "cuda: yes" || { echo "MIEN-SKIP: built without CUDA"; exit 0; }
command -v cc > /dev/null || { echo "MIEN-SKIP: no C compiler"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'int cuInit(unsigned f) { return 0; }\nint cuDriverGetVersion(int* v) { *v = 12020; return 0; }\n' | cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -x c - -o "$work/libcuda.so.1"
picture=$(ls "$source"/demo/photos/images/* | head -1)
status=0
LD_LIBRARY_PATH=$work "$build/bin/mien" detect "$picture" --device cuda 2> "$work/said" || status=$?
[ $status -eq 69 ]
grep -q "the NVIDIA driver knows CUDA 12.2, this build needs 13.*--device cpu" "$work/said"
LD_LIBRARY_PATH=$work "$build/bin/mien" doctor | grep -q "GPU: none (the NVIDIA driver knows CUDA 12.2"
LD_LIBRARY_PATH=$work "$build/bin/mien" detect "$picture" --device auto > /dev/null
echo "exit 69, both versions"

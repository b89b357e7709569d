# What --resume goes on with and what it refuses.
set -eu
build=$(realpath "$1") source=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo "failed at line $LINENO"; cat err.txt' ERR
export MIEN_WEIGHTS=$source/weights/mtcnn.safetensors
cd "$work"
mkdir -p voc/images voc/annotations
for f in $(ls "$source/demo/photos/images" | head -4); do
  cp "$source/demo/photos/images/$f" voc/images
  cp "$source/demo/photos/annotations/${f%.*}.xml" voc/annotations
done

# ends CODE PROGRAM OPTIONS...
ends() {
  local wanted=$1 status=0
  timeout 120 "$build/bin/$2" "${@:3}" > out.txt 2> err.txt || status=$?
  [ $status -eq "$wanted" ] || { echo "${*:2}: ended with $status, expected $wanted"; cat err.txt; exit 1; }
}
says() { grep -qF -e "$1" err.txt || { echo "does not say '$1'"; cat err.txt; exit 1; }; }

# --- limits count over all stages, and a run that goes on in pieces has the bits of the one without a limit
mtcnn="train_mtcnn --voc voc --stages pr --batch 64 --epochs 2 --hold-out 4 --seed 3"
ends 0 $mtcnn --out whole
ends 0 $mtcnn --out cut --max-steps 5
says "stopped at the limit; saved at step 5"
[ ! -e cut/r ] || { echo "a stage began after the limit"; exit 1; }
pieces=1
while grep -qF "stopped at the limit" err.txt; do
  [ $pieces -lt 40 ]
  ends 0 $mtcnn --out cut --resume --max-steps $((5 + 11 * pieces))
  pieces=$((pieces + 1))
done
[ $pieces -gt 4 ] && [ -e cut/r ]
cmp whole/mtcnn.safetensors cut/mtcnn.safetensors
cmp whole/r/metrics.csv cut/r/metrics.csv
ends 0 $mtcnn --out cut --resume --max-steps 2  # less than it has taken: nothing is lost
cmp whole/mtcnn.safetensors cut/mtcnn.safetensors

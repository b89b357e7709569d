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

# --- settings and data that contradict the run's
ends 2 $mtcnn --out cut --resume --weight-decay 0 --lr .01
says "cut/r was begun with other settings: --lr 0.02, now 0.01; --weight-decay 0.0005, now 0. Give the same ones, choose another --out"
ends 2 ${mtcnn/seed 3/seed 4} --out cut --resume
says "--seed 3, now 4"
ends 2 ${mtcnn/batch 64/batch 32} --out cut --resume
says "--batch 64, now 32"
ends 0 $mtcnn --out cut --resume --lr 2e-2 --workers 2 --threads 1 --save-every 3 --progress off
cmp whole/mtcnn.safetensors cut/mtcnn.safetensors
mv voc moved
ends 0 ${mtcnn/voc voc/voc moved} --out cut --resume
sed -i 's/<xmax>\(.\)/<xmax>9\1/' moved/annotations/$(ls moved/annotations | head -1)
ends 2 ${mtcnn/voc voc/voc moved} --out cut --resume
says "training photographs 3 ("
ends 0 ${mtcnn/voc voc/voc moved} --out cut --resume --force
says "training photographs 3 ("

i=0
for f in $(ls moved/images); do
  mkdir -p people/person$((i % 2))
  cp "moved/images/$f" people/person$((i % 2))
  i=$((i + 1))
done
facenet="train_facenet --data people --min-face 20 --size 16,16 --embedding 8 --pk 2x2 --epochs 6 --warm-up 2"
ends 0 $facenet --out all
ends 0 $facenet --out part --max-steps 2
ends 2 $facenet --out part --resume --net inception-resnet-v1 --loss softmax
says "--loss cosface, now softmax; --net mobilefacenet, now inception-resnet-v1"
ends 2 $facenet --out part --resume --margin .1
says "--margin not given, now 0.1"
ends 0 $facenet --out part --resume
cmp all/mobilefacenet.safetensors part/mobilefacenet.safetensors
cp people/person0/$(ls people/person0 | head -1) people/person1/again.jpg
ends 2 $facenet --out part --resume
says "training pictures 4 ("

# Mistakes on the command lines of the training programs: the exit code, a message that names the mistake, and no file that is lost or made.
set -eu
build=$(realpath "$1") source=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export MIEN_WEIGHTS=$source/weights/mtcnn.safetensors
voc=$source/demo/photos
cd "$work"
i=0
for f in $(ls "$voc/images" | head -4); do
  mkdir -p people/person$((i % 2))
  cp "$voc/images/$f" people/person$((i % 2))
  i=$((i + 1))
done
touch file
printf ' \r\n' > empty
printf 'nobody\r\n' > nobody
cp "$MIEN_WEIGHTS" weights.safetensors

# ends CODE WORDS PROGRAM OPTIONS...
ends() {
  local wanted=$1 words=$2 status=0
  shift 2
  timeout 60 "$build/bin/$1" "${@:2}" --progress off > out.txt 2> err.txt || status=$?
  [ $status -eq "$wanted" ] || { echo "$*: ended with $status, expected $wanted"; cat err.txt; exit 1; }
  grep -qF -e "$words" err.txt || { echo "$*: does not say '$words'"; cat err.txt; exit 1; }
}
facenet="train_facenet --data people --min-face 20 --size 16,16 --embedding 8 --batch 2"

mkdir -p "two words/Ann Lee" "two words/Bob" "two words/Ann Bo"
cp people/person0/* "two words/Ann Lee"
cp people/person1/* "two words/Bob"
cp people/person1/* "two words/Ann Bo"
printf 'Ann Lee\t2\nBob\n' > only
"$build/bin/train_facenet" --data "two words" --only only --min-face 20 --size 16,16 --embedding 8 --batch 2 --max-steps 1 --out named --progress off > out.txt
grep -q ' of 2 people$' <<< "$("$build/bin/mien" inspect named/mobilefacenet.safetensors)" || { echo "names with blanks"; exit 1; }

for program in "train_facenet --data people" "train_mtcnn --voc $voc" train_lenet; do
  for bad in "--threads 0" "--threads x" "--epochs 0" "--batch x" "--workers -1" "--workers 100000" "--lr 0" "--lr nan" "--seconds nan" "--max-steps -1" "--save-every -1" "--seed -1"; do ends 2 "${bad% *}" $program --out never $bad; done
  ends 73 "file/x" $program --out file/x
  ends 73 "file: " $program --out file
  ends 73 "--out ''" $program --out ''
done
for bad in "--scale 0" "--margin -1" "--momentum 1" "--weight-decay -1" "--clip nan" "--ema 1" "--alpha -1" "--center-weight -1" "--embedding 0" "--max-bad foo" "--max-bad nan" "--pk axb" \
  "--pk 3x4x" "--lfw-inner -1" "--lfw-folds abc" "--lfw-folds 1-3"; do ends 2 "${bad% *}" train_facenet --data people --out never $bad; done
ends 2 "--loss: foo not in {arcface,cosface,none,softmax,sphereface}" train_facenet --data people --out never --loss foo
ends 2 "--triplets: foo not in {batch-all," train_facenet --data people --out never --triplets foo
ends 2 "--margin: must be at least 1" train_facenet --data people --out never --loss sphereface --margin .5
ends 66 "nope" train_facenet --data people --out never --lfw nope --pairs nope
ends 2 "--smallest-face: must be at least 12" train_mtcnn --voc "$voc" --out never --stages pr --smallest-face 5
ends 2 "--hold-out" train_mtcnn --voc "$voc" --out never --hold-out -1
init="--init $source/weights/mobilefacenet.safetensors"
ends 2 "--net: is inception-resnet-v1, but " train_facenet --data people --out never $init --net inception-resnet-v1
ends 2 "--size: is 112,96, but " train_facenet --data people --out never $init --size 112,96
ends 2 "--embedding: is 64, but " train_facenet --data people --out never $init --embedding 64
[ ! -e never ] || { echo "a folder was made for a run that could not begin"; exit 1; }

for list in "empty 65" "people 65" "missing 66"; do
  for option in --only --without; do ends ${list#* } "${list% *}: " $facenet --out lists $option ${list% *}; done
  ends ${list#* } "${list% *}: " train_mtcnn --voc "$voc" --out lists --exclude ${list% *}
done
ends 65 "weights.safetensors: is no cache" $facenet --out weights --cache weights.safetensors
cmp weights.safetensors "$MIEN_WEIGHTS"
ends 0 "1 of the names in nobody match no person: nobody" $facenet --out run --cache cache.safetensors --without nobody --max-steps 2 --loss sphereface
cp run/mobilefacenet.safetensors good.safetensors
ends 76 "the checkpoint of step 2 in run/checkpoint is intact: --resume goes on from there. Lower --lr, which --resume takes with --force." $facenet --out run --cache cache.safetensors --loss sphereface --max-steps 6 --resume --force --lr 1e30 --warm-up 0
cmp run/mobilefacenet.safetensors good.safetensors
ends 76 "nothing had been saved yet" train_mtcnn --voc "$voc" --out diverged --stages p --lr 1e30 --max-steps 5 --batch 64
[ ! -e diverged/mtcnn.safetensors ]
cp run/checkpoint/last.safetensors run/checkpoint/last-1.safetensors
truncate -s 1000 run/checkpoint/last.safetensors
ends 0 "the last checkpoint can't be read, the one before is used: " $facenet --out run --cache cache.safetensors --loss sphereface --max-steps 3 --resume
"$build/bin/train_facenet" --data people --min-face 20 --batch 2 $init --max-steps 1 --out tuned --progress off > out.txt
ends 2 "tuned/mobilefacenet.safetensors holds no threshold" mien verify people/person0/* --model tuned/mobilefacenet.safetensors
status=0
"$build/bin/train_facenet" --help > /dev/full 2> err.txt || status=$?
[ $status -eq 74 ] || { echo "--help > /dev/full ended with $status"; exit 1; }

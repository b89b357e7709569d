# Runs that are stopped by Ctrl-C or kill -9 at random moments, also while they save, end with the bits of the run that nobody stopped.
# Environment: MIEN_KILLS (20), MIEN_SEED (the clock; printed).
set -eu
trap 'echo "failed at line $LINENO"' ERR
data=/usr/share/datasets/fashion-mnist
[ -d $data ] || { echo "MIEN-SKIP: no $data (Debian package dataset-fashion-mnist)"; exit 0; }
kills=${MIEN_KILLS:-20}
seed=${MIEN_SEED:-$(($(date +%s) % 32768))}
RANDOM=$seed
echo "seed $seed, $kills kills"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=$1 source=$2

# survives NAME KILLS WAIT PROGRAM...: the run of PROGRAM that is stopped KILLS times, each WAIT to 2 x WAIT hundredths of a second after its start,
# ends with the NAME.safetensors of the run that nobody stopped.
survives() {
  local name=$1 kills=$2 wait=$3
  local train=("${@:4}") killed=0 unreadable=0 k=0 first="" whole="$work/$1/whole" cut="$work/$1/cut" pid signal status files f a b
  mkdir -p "$work/$name"
  "${train[@]}" --out "$whole" --threads 1 --workers 1 > "$whole.log" 2>&1
  while [ $killed -lt "$kills" ]; do
    k=$((k + 1))
    [ $k -le $((kills * 20)) ] || { echo "only $killed of $k attempts were killed in time"; exit 1; }
    "${train[@]}" --out "$cut" $first --threads $((k % 3 + 1)) --workers $((k % 3)) > "$cut.log" 2>&1 &
    pid=$!
    sleep "$(awk -v w="$wait" -v r="$RANDOM" 'BEGIN { printf "%.2f", (w + r % w) / 100 }')"
    signal=KILL
    [ $((k % 4)) -ne 0 ] || signal=INT
    kill -$signal $pid 2>/dev/null && killed=$((killed + 1)) || true
    status=0; { wait $pid; } 2>/dev/null || status=$?
    case $status in 0 | 130 | 137) ;; *) cat "$cut.log"; echo "attempt $k ended with $status"; exit 1 ;; esac
    if [ $status -eq 0 ]; then break; fi
    files=$(find "$cut" -path '*/checkpoint/*' -name '*.safetensors' 2>/dev/null || true)
    [ -n "$files" ] || { [ -z "$first" ] || { echo "all checkpoints are gone"; exit 1; }; rm -rf "$cut"; continue; }
    first=--resume
    for f in $files; do "$build/bin/mien" inspect "$f" > /dev/null || { echo "$f can not be read after kill $killed"; unreadable=$((unreadable + 1)); }; done
  done
  [ $unreadable -eq 0 ]
  # Also where the last attempt came to its end: to resume a finished run must change nothing.
  "${train[@]}" --out "$cut" $first --threads 2 --workers 4 > "$cut.log" 2>&1
  a=$(sha256sum < "$whole/$name.safetensors") b=$(sha256sum < "$cut/$name.safetensors")
  [ "$a" = "$b" ] || { echo "the weights of $name differ: $a $b"; exit 1; }
  [ -z "$(find "$cut" -name '.*')" ] || { echo "temporary files stayed"; find "$cut" -name '.*'; exit 1; }
  echo "$name: $killed kills in $k runs, 0 unreadable, weights equal"
}

survives lenet "$kills" 25 "$build/bin/train_lenet" --data $data --batch 32 --seed 3 --max-steps $((kills * 12 + 60)) --save-every 1 --progress off
# P-Net and then R-Net on P-Net's proposals in six photographs: the kills fall into both, and into the search for hard examples between them.
mkdir -p "$work/voc/images" "$work/voc/annotations"
for f in $(ls "$source/demo/photos/images" | head -6); do
  cp "$source/demo/photos/images/$f" "$work/voc/images"
  cp "$source/demo/photos/annotations/${f%.*}.xml" "$work/voc/annotations"
done
survives mtcnn $((kills / 4 + 1)) 30 "$build/bin/train_mtcnn" --voc "$work/voc" --stages pr --epochs 4 --batch 64 --seed 3 --hold-out 3 --save-every 1 --progress off
# A small MobileFaceNet on the faces of eight photographs, two for each of four made-up people: batch norm, a margin head, triplets and moving averages.
i=0
for f in $(ls "$source/demo/photos/images" | head -8); do
  mkdir -p "$work/people/person$((i % 4))"
  cp "$source/demo/photos/images/$f" "$work/people/person$((i % 4))"
  i=$((i + 1))
done
survives mobilefacenet $((kills / 4 + 1)) 30 "$build/bin/train_facenet" --data "$work/people" --size 16,16 --embedding 8 --min-face 20 --pk 2x2 --triplets semi-hard --scale 16 --ema .9 \
  --warm-up 5 --epochs 40 --seed 3 --save-every 1 --progress off

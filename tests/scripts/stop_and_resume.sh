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
export OMP_WAIT_POLICY=passive
steps=$((kills * 12 + 60))
build=$1
train=("$build/bin/train_lenet" --data $data --batch 32 --seed 3 --max-steps $steps --save-every 1 --progress off)
"${train[@]}" --out "$work/whole" --threads 1 --workers 1 > "$work/whole.log" 2>&1
killed=0 unreadable=0 k=0
first=""
while [ $killed -lt "$kills" ]; do
  k=$((k + 1))
  [ $k -le $((kills * 20)) ] || { echo "only $killed of $k attempts were killed in time"; exit 1; }
  "${train[@]}" --out "$work/cut" $first --threads $((k % 3 + 1)) --workers $((k % 3)) > "$work/cut.log" 2>&1 &
  pid=$!
  sleep "0.$((25 + RANDOM % 40))"
  signal=KILL
  [ $((k % 4)) -ne 0 ] || signal=INT
  kill -$signal $pid 2>/dev/null && killed=$((killed + 1)) || true
  status=0; { wait $pid; } 2>/dev/null || status=$?
  case $status in 0 | 130 | 137) ;; *) cat "$work/cut.log"; echo "attempt $k ended with $status"; exit 1 ;; esac
  if [ $status -eq 0 ]; then break; fi
  files=$(find "$work/cut/checkpoint" -name '*.safetensors' 2>/dev/null || true)
  [ -n "$files" ] || { [ -z "$first" ] || { echo "all checkpoints are gone"; exit 1; }; rm -rf "$work/cut"; continue; }
  first=--resume
  for f in $files; do "$build/bin/mien" inspect "$f" > /dev/null || { echo "$f can not be read after kill $killed"; unreadable=$((unreadable + 1)); }; done
done
[ $unreadable -eq 0 ]
# Also where the last attempt came to its end: to resume a finished run must change nothing.
"${train[@]}" --out "$work/cut" $first --threads 2 --workers 4 > "$work/cut.log" 2>&1
a=$(sha256sum < "$work/whole/lenet.safetensors") b=$(sha256sum < "$work/cut/lenet.safetensors")
[ "$a" = "$b" ] || { echo "the weights differ: $a $b"; exit 1; }
[ -z "$(find "$work/cut" -name '.*')" ] || { echo "temporary files stayed"; find "$work/cut" -name '.*'; exit 1; }
echo "$killed kills in $k runs, 0 unreadable, weights equal"

#!/usr/bin/env bash
# Builds mien, finds and compares the faces in the photographs of demo/photos, then trains P-Net for about a minute on crops of them.
# Needs nothing but a Debian (as root or with sudo, to install the packages that are missing).
set -euo pipefail
cd "$(dirname "$0")"
start=$SECONDS
out="${1:-demo-out}"
build="${MIEN_BUILD_DIR:-build}"
gpu=$(nvidia-smi -L >/dev/null 2>&1 && echo native || echo 90-real)  # with a CUDA toolkit: kernels for this GPU, or for one kind
tools/install-packages
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMIEN_CUDA_ARCHITECTURES="$gpu" -DMIEN_BUILD_TESTS=OFF >/dev/null
cmake --build "$build"
rm -rf "$out/p-net"
mkdir -p "$out"

"$build/bin/mien" detect demo/photos/images --draw "$out/detections" --format csv > "$out/faces.csv"
pictures=$(ls demo/photos/images | wc -l)
faces=$(($(wc -l < "$out/faces.csv") - 1))

# Every face as a vector; then a photograph beside its own drawing (other bytes, lines across the face) and beside another person's.
"$build/bin/mien" embed demo/photos/images --face all --format csv --out "$out/embeddings.csv"
photo=maksssksksss271
verdict() { "$build/bin/mien" verify "demo/photos/images/$photo.jpg" "$1" | head -1 || true; }  # exit 1 is an answer: another person
same=$(verdict "$out/detections/$photo.png")
other=$(verdict demo/photos/images/maksssksksss561.jpg)

"$build/bin/train_mtcnn" --voc demo/photos --stages p --hold-out 5 --epochs 100000 --seconds "${DEMO_SECONDS:-60}" --out "$out/p-net" --check-majority | tee "$out/training.txt"
value() { awk -v key="$1" '$1 == "p" && $2 == key { print $3 }' "$out/training.txt"; }

echo
echo "Found $faces faces in $pictures photographs with weights that mien trained itself: $out/faces.csv"
echo "Embeddings of $(awk -F, 'NR > 1 && $2 != ""' "$out/embeddings.csv" | wc -l) faces, by a MobileFaceNet that mien trained itself: $out/embeddings.csv"
echo "A photograph and its drawing: $same"
echo "It and a photograph of another person: $other"
echo "Pictures with boxes, five points and scores: $out/detections/"
echo "Trained P-Net from nothing: held-out loss $(value held_out_loss), accuracy $(value held_out_accuracy), majority class $(value held_out_majority)"
echo "Its curves: $out/p-net/p/loss.png and $out/p-net/p/rates.png; its weights: $out/p-net/mtcnn.safetensors"
echo "All of it took $((SECONDS - start)) seconds. Next: build/bin/mien detect YOUR.jpg --draw out; build/bin/train_mtcnn --help"

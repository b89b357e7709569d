# Who may include whom; and the check itself sees an offence.
set -eu
python3 "$2/tools/check-deps" "$2"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/tensor" "$copy/kernels"
echo '#include "mien/ops/conv.h"' > "$copy/tensor/a.h"
echo '#include "mien/tensor/tensor.h"' > "$copy/kernels/b.cpp"
if python3 "$2/tools/check-deps" "$copy" > "$copy/out"; then echo "an offence went unseen"; exit 1; fi
[ "$(wc -l < "$copy/out")" -eq 2 ]

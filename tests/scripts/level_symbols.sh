# Note [One symbol a level]: each level's object has one global symbol, no weak ones (the linker would merge them over levels) and no static initialiser.
set -eu
seen=0
for object in "$1"/kernels/mien_cpu_*.o; do
  level=$(basename "$object" .o)
  global=$(nm --defined-only "$object" | awk '$2 ~ /^[A-Z]$/ { print $3 }')
  [ "$global" = "$level" ] || { echo "$object exports: $global"; exit 1; }
  if nm "$object" | awk '$2 ~ /^[wWvVu]$/ && $1 != ""' | grep .; then echo "$object has weak symbols"; exit 1; fi
  if readelf -SW "$object" | grep -E '\.(init_array|ctors)'; then echo "$object has static initialisers"; exit 1; fi
  seen=$((seen + 1))
done
[ "$seen" -ge 1 ]
# The flags of one level stay out of the others: no tile outside amx, no 512-bit register below avx512, no 256-bit one in base.
if [ "$(uname -m)" = x86_64 ]; then
  if objdump -d "$1/kernels/mien_cpu_base.o" | grep -qE '%[yz]mm'; then echo "base holds AVX"; exit 1; fi
  if objdump -d "$1/kernels/mien_cpu_avx2.o" | grep -qE '%zmm|%k[0-7]'; then echo "avx2 holds AVX-512"; exit 1; fi
  objdump -d "$1/kernels/mien_cpu_avx512.o" | grep -q '%zmm'
  if objdump -d "$1/kernels/mien_cpu_avx512.o" | grep -qE '%tmm|vcvtne'; then echo "avx512 holds AMX or bf16"; exit 1; fi
  objdump -d "$1/kernels/mien_cpu_amx.o" | grep -q '%tmm'
fi
# Note [CUDA in one object] in cmake/MienCuda.cmake.
if [ -e "$1/kernels/mien_cuda.o" ]; then
  global=$(nm --defined-only "$1/kernels/mien_cuda.o" | awk '$2 ~ /^[A-Z]$/ { print $3 }' | sort | tr '\n' ' ')
  [ "$global" = "mien_cuda mien_cuda_backend mien_cuda_library " ] || { echo "mien_cuda.o exports: $global"; exit 1; }
  if nm -u "$1/kernels/mien_cuda.o" | grep -E ' (cuda|cublas|cudnn)[A-Z]'; then echo "mien_cuda.o needs a CUDA library"; exit 1; fi
fi
echo "$seen levels"

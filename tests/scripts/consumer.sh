# A program outside the tree: find_package(mien REQUIRED), target_link_libraries(app mien::mien); once static, once shared.
# The compiler says which files it opened (-H), and none of them may be a third party's.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/app"
cat > "$work/app/CMakeLists.txt" <<'EOF'
cmake_minimum_required(VERSION 3.22)
project(app LANGUAGES CXX)
find_package(mien 0.1 REQUIRED)
add_executable(app app.cpp)
target_link_libraries(app mien::mien)
EOF
cat > "$work/app/app.cpp" <<'EOF'
#include <cstdio>
#include <mien/mien.h>
int main(int, char** argv) {
  const auto detector = mien::Detector::load(argv[1]);
  const auto faces = detector.detect(mien::read_image(argv[2]));
  for (const auto& f : faces) std::printf("%.0f %.0f %.0f %.0f %.3f\n", f.box[0], f.box[1], f.box[2], f.box[3], f.score);
  return faces.empty();
}
EOF
photo=$(ls "$2"/demo/photos/images/*.jpg | head -1)
try() {
  cmake --install "$2" --prefix "$work/$1" > /dev/null
  cmake -S "$work/app" -B "$work/$1-build" -G Ninja -DCMAKE_PREFIX_PATH="$work/$1" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="-H ${MIEN_TEST_CXX_FLAGS:-}" > /dev/null
  cmake --build "$work/$1-build" > "$work/$1.log" 2>&1 || { grep -A5 'error' "$work/$1.log"; exit 1; }
  if grep -E '^\.+ .*/(eigen3|stb|nlohmann|CLI|catch2|jpeglib|spng|zlib|omp)\b' "$work/$1.log"; then echo "a consumer sees third-party headers"; exit 1; fi
  "$work/$1-build/app" "$work/$1/share/mien/weights/mtcnn.safetensors" "$photo" > "$work/$1.txt"
  [ -s "$work/$1.txt" ]
  # The installed program finds its weights beside itself.
  if [ -x "$work/$1/bin/mien" ]; then "$work/$1/bin/mien" detect "$photo" > /dev/null; fi
}
try static "$1"
cmake -S "$2" -B "$1/consumer-shared" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DMIEN_KERNELS_FROM="$1" -DMIEN_CUDA=OFF -DMIEN_BUILD_TESTS=OFF -DMIEN_BUILD_TOOLS=OFF > /dev/null
cmake --build "$1/consumer-shared" > "$work/shared-build.log" 2>&1 || { tail -40 "$work/shared-build.log"; exit 1; }
try shared "$1/consumer-shared"
cmp "$work/static.txt" "$work/shared.txt"
ldd "$work/shared-build/app" | grep -q 'libmien\.so'

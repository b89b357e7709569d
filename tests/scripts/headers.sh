# Each installed header compiles alone, with nothing but mien's own folder on the include path; so does the umbrella.
set -eu
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
cmake --install "$1" --prefix "$prefix" > /dev/null
cd "$prefix/include"
headers=$(find mien -name '*.h' | sort)
[ "$(echo "$headers" | wc -l)" -ge 30 ]
if echo "$headers" | grep -E '_impl\.h|kernels/(cpu|ref)/'; then echo "private headers were installed"; exit 1; fi
status=0
echo "$headers" | xargs -P 2 -I {} sh -c 'printf "#include \"%s\"\n" "$1" | ${CXX:-g++} -std=c++20 -Wall -Wextra -Wshadow -Wconversion -Werror -fsyntax-only -I . -x c++ - || { echo "$1 does not stand alone"; exit 255; }' sh {} || status=1
exit $status

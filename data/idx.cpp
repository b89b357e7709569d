#include "mien/data/idx.h"

#include <zlib.h>

#include <filesystem>
#include <memory>

namespace mien {
namespace {

struct GzClose {
  void operator()(gzFile f) const { gzclose(f); }
};

void read_exactly(gzFile f, void* to, std::int64_t bytes, const std::string& path) {
  auto* p = static_cast<char*>(to);
  while (bytes > 0) {
    const int got = gzread(f, p, static_cast<unsigned>(std::min<std::int64_t>(bytes, 1 << 20)));
    if (got <= 0) throw IoError(IoKind::bad_data, "read_idx", path, "ends " + std::to_string(bytes) + " bytes early", "Get the file again.");
    p += got;
    bytes -= got;
  }
}

}  // namespace

Tensor read_idx(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) throw IoError(IoKind::missing, "read_idx", path, "there is no such file");
  const std::unique_ptr<gzFile_s, GzClose> f(gzopen(path.c_str(), "rb"));
  if (!f) throw IoError(IoKind::missing, "read_idx", path, "can't be opened");
  std::uint8_t head[4];
  read_exactly(f.get(), head, 4, path);
  if (head[0] != 0 || head[1] != 0 || head[2] != 8 || head[3] < 1 || head[3] > 4)
    throw IoError(IoKind::bad_data, "read_idx", path, "is not an idx file of unsigned bytes", "Expected the files of MNIST or Fashion-MNIST.");
  Shape shape;
  std::int64_t count = 1;
  for (int d = 0; d < head[3]; ++d) {
    std::uint8_t b[4];
    read_exactly(f.get(), b, 4, path);
    shape.push_back((std::int64_t{b[0]} << 24) | (b[1] << 16) | (b[2] << 8) | b[3]);
    if (__builtin_mul_overflow(count, shape.back(), &count) || count > (std::int64_t{1} << 31))
      throw IoError(IoKind::bad_data, "read_idx", path, "claims more than 2 GiB of values");
  }
  // A compressed file can't grow more than 1032-fold: refuse a header that its bytes can't fill before allocating.
  if (count > 1032 * static_cast<std::int64_t>(std::filesystem::file_size(path)))
    throw IoError(IoKind::bad_data, "read_idx", path, "its header claims " + std::to_string(count) + " values, more than the file can hold");
  const Tensor t = Tensor::empty(shape, DType::u8);
  read_exactly(f.get(), t.raw_data(), count, path);
  return t;
}

LabelledImages read_mnist(const std::string& folder, bool train) {
  const auto find = [&](const std::string& leaf) {
    for (const char* end : {"", ".gz"})
      if (std::filesystem::exists(folder + "/" + leaf + end)) return folder + "/" + leaf + end;
    throw IoError(IoKind::missing, "read_mnist", folder + "/" + leaf, "there is neither this file nor one with .gz",
                  "Fashion-MNIST: apt-get install dataset-fashion-mnist, then /usr/share/datasets/fashion-mnist.");
  };
  const std::string part = train ? "train" : "t10k";
  LabelledImages out{read_idx(find(part + "-images-idx3-ubyte")), read_idx(find(part + "-labels-idx1-ubyte"))};
  if (out.images.rank() != 3 || out.labels.rank() != 1 || out.images.size(0) != out.labels.size(0))
    throw IoError(IoKind::bad_data, "read_mnist", folder, "images " + describe(out.images) + " and labels " + describe(out.labels) + " don't belong together");
  return out;
}

}  // namespace mien

// Weights of other programs: .pt in both forms, .npy and .npz, and files that lie.
#include <cstring>
#include <fstream>

#include "catch.h"
#include "mien/io/file.h"
#include "mien/io/torch_file.h"
#include "mien/models/mtcnn/mtcnn.h"

namespace fs = std::filesystem;

namespace mien::test {
namespace {

std::int64_t values(const TensorFile& f) {
  std::int64_t n = 0;
  for (const auto& [name, t] : f.tensors) n += t.numel();
  return n;
}
std::string write(const fs::path& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}
std::string npy(const std::string& header, const std::string& data) {
  const std::string padded = header + std::string((64 - (header.size() + 11) % 64) % 64, ' ') + "\n";
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(padded.size() & 255) + static_cast<char>(padded.size() >> 8) + padded + data;
}
std::string refusal(const std::string& path) { return message_of<IoError>([&] { load_tensors(path); }); }

}  // namespace

TEST_CASE("PyTorch's state dicts have the parameters of the paper's nets", "[io][data]") {
  MIEN_REQUIRE_DATA(weights, "mtcnn-weights/facenet-pytorch");
  CHECK(values(load_tensors(weights + "/pnet.pt")) == 6632);
  CHECK(values(load_tensors(weights + "/rnet.pt")) == 100178);
  CHECK(values(load_tensors(weights + "/onet.pt")) == 389040);
}

TEST_CASE("a .pt cut anywhere or with changed bytes is refused or read, never more", "[io][hostile][data]") {
  MIEN_REQUIRE_DATA(weights, "mtcnn-weights/facenet-pytorch");
  const auto bytes = read_file(weights + "/pnet.pt");
  const fs::path dir = temp_dir("pt");
  const std::string path = (dir / "cut.pt").string();
  const std::string whole(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (std::size_t n = 0; n < whole.size(); n += 1 + whole.size() / 400) {
    INFO("first " << n << " bytes");
    CHECK(refusal(write(path, whole.substr(0, n))).find("cut.pt") != std::string::npos);
  }
  std::uint64_t state = 99;
  for (int i = 0; i < 400; ++i) {
    std::string b = whole;
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    b[(state >> 33) % (i % 2 ? b.size() : 3000)] = static_cast<char>(state >> 20);
    try {
      load_tensors(write(path, b));
    } catch (const Error&) {
    }
  }
  fs::remove_all(dir);
}

TEST_CASE("text of a .npy becomes code points") {
  const fs::path dir = temp_dir("text");
  const std::string data("a\0\0\0\xe9\0\0\0\0\0\0\0b\0\0\0\0\0\0\0\0\0\0\0", 24);
  const std::string head = "{'descr': '<U3', 'fortran_order': False, 'shape': (2,), }";
  const Tensor t = load_tensors(write(dir / "t.npy", npy(head, data))).tensors[0].second;
  CHECK(t.dtype() == DType::i32);
  CHECK(t.shape() == Shape{2, 3});
  CHECK(std::vector<int>(t.data<std::int32_t>(), t.data<std::int32_t>() + 6) == std::vector<int>{'a', 0xe9, 0, 'b', 0, 0});
  CHECK(refusal(write(dir / "cut.npy", npy(head, data.substr(1)))).find("holds 23 bytes, its header describes 6 values of 4") != std::string::npos);
  CHECK(refusal(write(dir / "huge.npy", npy("{'descr': '<U2147483647', 'fortran_order': False, 'shape': (9223372036854775807,), }", data))).find("overflows") != std::string::npos);
  CHECK(refusal(write(dir / "none.npy", npy("{'descr': '<U0', 'fortran_order': False, 'shape': (2,), }", ""))).find("<U0") != std::string::npos);
  fs::remove_all(dir);
}

TEST_CASE(".npy comes back in either order; objects and damage are refused", "[io]") {
  const fs::path dir = temp_dir("npy");
  const Tensor t = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  save_npy((dir / "a.npy").string(), t);
  const TensorFile back = load_npy((dir / "a.npy").string());
  REQUIRE(back.tensors.size() == 1);
  CHECK(back.tensors[0].first == "a");
  CHECK(back.tensors[0].second.shape() == t.shape());
  CHECK(back.tensors[0].second.to_vector() == t.to_vector());
  const float columns[] = {1, 4, 2, 5, 3, 6};
  const std::string data(reinterpret_cast<const char*>(columns), sizeof columns);
  const std::string header = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }";
  CHECK(load_npy(write(dir / "f.npy", npy(header, data))).tensors[0].second.to_vector() == t.to_vector());
  for (const auto& [what, content] : std::vector<std::pair<const char*, std::string>>{
           {"objects", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "x")},
           {"bytes missing", npy(header, data.substr(1))},
           {"a product that overflows", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4), }", data)},
           {"a negative size", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }", data)},
           {"no shape", npy("{'descr': '<f4', 'fortran_order': False}", data)},
           {"an unknown type", npy("{'descr': '<q9', 'fortran_order': False, 'shape': (2, 3), }", data)},
           {"nothing but the magic", std::string("\x93NUMPY\x01\x00", 8)}}) {
    INFO(what);
    CHECK(refusal(write(dir / "bad.npy", content)).find("bad.npy") != std::string::npos);
  }
  CHECK(refusal((dir / "bad.npy").string()).find('\n') == std::string::npos);
  fs::remove_all(dir);
}

}  // namespace mien::test

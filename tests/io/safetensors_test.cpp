// safetensors: round trips, and files that lie.
#include <cstring>
#include <fstream>

#include "catch.h"
#include "mien/io/crc32c.h"
#include "mien/io/file.h"
#include "mien/io/safetensors.h"
#include "mien/ops/copy.h"
#include "mien/ops/view.h"

namespace mien::test {
namespace {

std::vector<std::byte> bytes_of(const std::string& s) {
  std::vector<std::byte> out(s.size());
  std::memcpy(out.data(), s.data(), s.size());
  return out;
}
// A file with this header and `data` bytes behind it.
std::vector<std::byte> file_of(const std::string& header, std::size_t data, std::int64_t claimed = -1) {
  const std::uint64_t n = claimed < 0 ? header.size() : static_cast<std::uint64_t>(claimed);
  std::string s(reinterpret_cast<const char*>(&n), 8);
  return bytes_of(s + header + std::string(data, '\1'));
}
std::string refusal(std::span<const std::byte> bytes) {
  try {
    parse_safetensors(bytes, "evil.safetensors");
  } catch (const IoError& e) {
    return e.what();
  }
  return "";
}
TensorFile sample() {
  TensorFile f;
  f.metadata = {{"mien.architecture", "test"}, {"text", "quotes \" and \\ and ü"}};
  f.tensors.emplace_back("a.weight", Tensor::from(std::vector<float>{1.5f, -2, 3, 4, 5, 6}, {2, 3}));
  f.tensors.emplace_back("scalar", Tensor::from(std::vector<double>{-.1}, {}));
  f.tensors.emplace_back("empty", Tensor::empty({0, 3}));
  f.tensors.emplace_back("labels", Tensor::from(std::vector<std::int64_t>{-1, 9}, {2}));
  for (const DType t : {DType::bf16, DType::f16, DType::u8, DType::i32, DType::boolean})
    f.tensors.emplace_back("as_" + std::string(name(t)), cast(Tensor::from(std::vector<float>{0, 1, 1}, {3}), t));
  return f;
}

}  // namespace

TEST_CASE("safetensors come back as they were written", "[io]") {
  const TensorFile before = sample(), after = parse_safetensors(to_safetensors(before), "memory");
  for (const auto& [key, value] : before.metadata) CHECK(after.metadata.at(key) == value);
  REQUIRE(after.tensors.size() == before.tensors.size());
  for (std::size_t i = 0; i < after.tensors.size(); ++i) {
    INFO(before.tensors[i].first);
    CHECK(after.tensors[i].first == before.tensors[i].first);
    CHECK(after.tensors[i].second.dtype() == before.tensors[i].second.dtype());
    CHECK(after.tensors[i].second.shape() == before.tensors[i].second.shape());
    CHECK(after.tensors[i].second.to_vector() == before.tensors[i].second.to_vector());
  }
}

TEST_CASE("views are written in logical order", "[io]") {
  TensorFile f;
  f.tensors.emplace_back("t", permute(Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}), {1, 0}));
  const TensorFile back = parse_safetensors(to_safetensors(f), "memory");
  CHECK(back.tensors[0].second.to_vector() == std::vector<double>{1, 4, 2, 5, 3, 6});
}

TEST_CASE("a file cut at any byte is refused", "[io][hostile]") {
  const auto whole = to_safetensors(sample());
  for (std::size_t n = 0; n < whole.size(); ++n) {
    INFO("first " << n << " bytes");
    CHECK(refusal(std::span(whole).first(n)).find("evil.safetensors") != std::string::npos);
  }
}

TEST_CASE("any changed bit is refused", "[io][hostile]") {
  auto whole = to_safetensors(sample());
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      whole[i] ^= std::byte(1 << bit);
      if (refusal(whole).empty()) FAIL_CHECK("byte " << i << " bit " << bit << " changed and nobody saw it");
      whole[i] ^= std::byte(1 << bit);
    }
  CHECK(refusal(whole).empty());
}

TEST_CASE("headers that lie are refused before anything is allocated", "[io][hostile]") {
  const std::string ok = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  CHECK(refusal(file_of(ok, 8)).empty());  // files of other programs carry no checksums
  const std::vector<std::pair<const char*, std::vector<std::byte>>> cases = {
      {"header longer than the file", file_of(ok, 8, 1 << 20)},
      {"header of 2^63", file_of(ok, 8, INT64_MAX)},
      {"header over the limit", file_of(ok, 8, 100'000'001)},
      {"not JSON", file_of("hello", 0)},
      {"an array", file_of("[]", 0)},
      {"bytes missing", file_of(ok, 7)},
      {"bytes left over", file_of(ok, 9)},
      {"hole", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})", 12)},
      {"overlap", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8)},
      {"size does not fit the shape", file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8)},
      {"product overflows", file_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}})", 0)},
      {"negative size", file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8)},
      {"fractional size", file_of(R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8)},
      {"unknown dtype", file_of(R"({"a":{"dtype":"F3","shape":[2],"data_offsets":[0,8]}})", 8)},
      {"no dtype", file_of(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8)},
      {"offsets turned round", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8)},
      {"three offsets", file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8)},
      {"the same name twice", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8)},
      {"not UTF-8", file_of("{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8)},
      {"metadata that is no text", file_of(R"({"__metadata__":{"a":1}})", 0)},
      {"2 million brackets", file_of(std::string(2'000'000, '['), 0)},
      {"rank 100", file_of(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4)},
  };
  for (const auto& [what, bytes] : cases) {
    INFO(what);
    const std::string message = refusal(bytes);
    CHECK(message.find("evil.safetensors") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 400);
  }
}

TEST_CASE("checksums have their published values", "[io]") {
  CHECK(crc32c(bytes_of("123456789")) == 0xe3069283u);
  CHECK(crc32c({}) == 0u);
  CHECK(crc32c(bytes_of("6789"), crc32c(bytes_of("12345"))) == 0xe3069283u);
  CHECK(sha256({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256(bytes_of("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256(bytes_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

}  // namespace mien::test

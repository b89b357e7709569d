// The ops of a face detector beside each other and beside their reference kernels.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <limits>

#include "catch.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/parallel.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/conv_chain.h"
#include "mien/ops/factory.h"
#include "mien/ops/nms.h"
#include "mien/ops/packed_conv.h"
#include "mien/ops/pnet.h"
#include "mien/ops/pool.h"
#include "mien/ops/resize.h"
#include "mien/tensor/allocator.h"
#include "mien/tensor/generator.h"

namespace mien::test {
namespace {

struct Capped {  // what follows runs at this level
  explicit Capped(Level level) { set_max_cpu_level(level); }
  ~Capped() { set_max_cpu_level(before); }
  Level before = max_cpu_level();
};

Tensor bytes(const Shape& shape, std::uint64_t seed) {
  const Tensor t = Tensor::empty(shape, DType::u8);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(philox_integer(seed, 0, static_cast<std::uint64_t>(i), 256));
  return t;
}
Tensor values(const Shape& shape, std::uint64_t seed, float scale) {
  const Tensor t = Tensor::empty(shape);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = (philox_uniform(seed, 1, static_cast<std::uint64_t>(i)) - .5f) * 2 * scale;
  return t;
}

PnetWeights random_pnet() {
  const Shape shapes[13] = {{10, 3, 3, 3}, {10}, {10}, {16, 10, 3, 3}, {16}, {16}, {32, 16, 3, 3}, {32}, {32}, {2, 32, 1, 1}, {2}, {4, 32, 1, 1}, {4}};
  PnetWeights w;
  for (std::size_t k = 0; k < 13; ++k) w[k] = values(shapes[k], 10 + k, .3f);
  return w;
}

}  // namespace

TEST_CASE("pnet_candidates keeps what reaches the threshold, in the same order, to the bit", "[ops][detector]") {
  const Tensor pixels = bytes({120, 150, 3}, 1), image = pixels.as_strided({3, 120, 150}, {1, 450, 3}, 0);
  const Tensor sizes = Tensor::from({std::int64_t{101}, std::int64_t{130}, std::int64_t{50}, std::int64_t{60}, std::int64_t{11}, std::int64_t{12}}, {3, 2});
  const PnetWeights weights = random_pnet();
  const PnetCandidates all = pnet_candidates(image, sizes, weights, 0);
  const std::int64_t *cells = all.cells.data<std::int64_t>(), *counts = all.counts.data<std::int64_t>();
  REQUIRE((counts[0] == 46 * 60 && counts[1] == 20 * 25 && counts[2] == 1));
  for (const float threshold : {.4f, .5f, .55f, 1.f}) {
    const PnetCandidates some = pnet_candidates(image, sizes, weights, threshold);
    std::int64_t at = 0, first = 0;
    for (std::int64_t s = 0; s < 3; first += counts[s++]) {
      const std::int64_t before = at;
      for (std::int64_t i = first; i < first + counts[s]; ++i) {
        const float* v = all.values.data<float>() + 5 * i;
        if (!(v[0] >= threshold)) continue;
        REQUIRE(some.cells.data<std::int64_t>()[at] == cells[i]);
        REQUIRE(std::equal(v, v + 5, some.values.data<float>() + 5 * at));
        ++at;
      }
      CHECK(some.counts.data<std::int64_t>()[s] == at - before);
    }
  }
}

TEST_CASE("the memory that pnet_candidates books serves any number of threads", "[ops][detector]") {
  const Tensor image = bytes({600, 700, 3}, 1).as_strided({3, 600, 700}, {1, 2100, 3}, 0), sizes = Tensor::from({std::int64_t{600}, std::int64_t{700}}, {1, 2});
  const PnetWeights weights = random_pnet();
  const PnetCandidates expected = pnet_candidates(image, sizes, weights, .5f), got{zeros_like(expected.cells), zeros_like(expected.values), zeros_like(expected.counts)};
  std::vector<View> in{image.view(), sizes.view()}, out{got.cells.view(), got.values.view(), got.counts.view()};
  for (const Tensor& w : weights) in.push_back(w.view());
  const PnetParams params{.5f};
  KernelArgs args{in, out, &params};
  const KernelEntry& entry = choose_kernel("pnet_candidates", {&ref::pnet_candidates_entry, &KernelTable::pnet_candidates}, args);
  const int before = num_threads();
  const auto allocator = make_debug_allocator();  // a guard page behind the memory
  set_num_threads(1);
  const std::int64_t room = entry.workspace(args);
  args.workspace = allocator->allocate(room);
  set_num_threads(64);
  CHECK(entry.workspace(args) == room);
  entry.run(args);
  set_num_threads(before);
  allocator->deallocate(args.workspace, room);
  const std::int64_t count = *expected.counts.data<std::int64_t>();
  REQUIRE(*got.counts.data<std::int64_t>() == count);
  CHECK(std::equal(expected.values.data<float>(), expected.values.data<float>() + 5 * count, got.values.data<float>()));
}

TEST_CASE("scales in several calls of pnet_candidates give what they give in one, to the bit", "[ops][detector]") {
  const Tensor image = bytes({3, 60, 50}, 1);
  const PnetWeights weights = random_pnet();
  std::vector<std::array<std::int64_t, 2>> sizes;
  for (std::int64_t s = 0; s < 90; ++s) sizes.push_back({11 + s % 31, 11 + s * 7 % 23});
  const auto found = [&](std::size_t first, std::size_t count) {
    return pnet_candidates(image, Tensor::from(std::span<const std::int64_t>(sizes[first].data(), 2 * count), {static_cast<std::int64_t>(count), 2}), weights, .5f);
  };
  const PnetCandidates all = found(0, sizes.size());
  std::int64_t row = 0;
  std::vector<std::size_t> calls;
  for (std::size_t done = 0; done < sizes.size(); done += calls.back()) {
    calls.push_back(pnet_scales_at_once(std::span(sizes).subspan(done)));
    const PnetCandidates part = found(done, calls.back());
    std::int64_t rows = 0;
    for (std::size_t s = 0; s < calls.back(); ++s) {
      REQUIRE(part.counts.data<std::int64_t>()[s] == all.counts.data<std::int64_t>()[done + s]);
      rows += part.counts.data<std::int64_t>()[s];
    }
    REQUIRE(std::equal(part.cells.data<std::int64_t>(), part.cells.data<std::int64_t>() + rows, all.cells.data<std::int64_t>() + row));
    REQUIRE(std::equal(part.values.data<float>(), part.values.data<float>() + 5 * rows, all.values.data<float>() + 5 * row));
    row += rows;
  }
  CHECK(row > 100);
  CHECK(calls == std::vector<std::size_t>{40, 40, 10});
  const std::vector<std::array<std::int64_t, 2>> large(3, {30000, 20000});  // .56 * 2^30 pixels each
  CHECK(pnet_scales_at_once(large) == 1);
  CHECK(pnet_scales_at_once(std::vector<std::array<std::int64_t, 2>>(9, {8192, 16384})) == 8);
}

TEST_CASE("pnet_candidates names what does not fit", "[ops][error]") {
  const PnetWeights weights = random_pnet();
  const Tensor image = bytes({3, 20, 20}, 1), sizes = Tensor::from({std::int64_t{12}, std::int64_t{12}}, {1, 2});
  CHECK(message_of<Error>([&] { pnet_candidates(values({3, 20, 20}, 1, 1), sizes, weights, .6f); }) == "pnet_candidates: the picture must be u8, got f32[3, 20, 20]");
  CHECK(message_of<Error>([&] { pnet_candidates(bytes({1, 20, 20}, 1), sizes, weights, .6f); }).find("[3, H, W]") != std::string::npos);
  CHECK(message_of<Error>([&] { pnet_candidates(image, Tensor::from({std::int64_t{10}, std::int64_t{12}}, {1, 2}), weights, .6f); }).find("scale 0 must be 11 to 32767 pixels") !=
        std::string::npos);
  PnetWeights wrong = weights;
  wrong[3] = values({16, 10, 1, 1}, 1, 1);
  CHECK(message_of<Error>([&] { pnet_candidates(image, sizes, wrong, .6f); }).find("parameter 3 must be f32[16, 10, 3, 3]") != std::string::npos);
}

TEST_CASE("conv_chain names what does not fit", "[ops][error]") {
  const Tensor x = values({2, 3, 8, 8}, 1, 1), packed = pack_conv_weights(values({20, 3, 3, 3}, 2, 1)), bias = values({20}, 3, 1);
  const auto run = [&](const ConvChainWeights& w, const ChainLayer& l) { return message_of<Error>([&] { conv_chain(x, {{w}}, {{l}}); }); };
  CHECK_NOTHROW(conv_chain(x, {{{packed, bias, {}}}}, {{{.channels = 20, .kernel = 3}}}));
  CHECK(run({packed, bias, {}}, {.channels = 20, .kernel = 3, .prelu = true}).find("needs a slope if and only if") != std::string::npos);
  CHECK(run({packed, bias, {}}, {.channels = 40, .kernel = 3}).find("layer 0 expects packed weights [3, 27, 16]") != std::string::npos);
  CHECK(run({packed, values({19}, 3, 1), {}}, {.channels = 20, .kernel = 3}).find("expects a bias [20]") != std::string::npos);
  CHECK(run({packed, bias, {}}, {.channels = 20, .kernel = 9}).find("has a kernel of 9") != std::string::npos);
  CHECK(message_of<Error>([&] { conv_chain(x, {}, {}); }).find("expects 1 to 8 layers") != std::string::npos);
}

TEST_CASE("area resizing adds up the bytes of windows of any size", "[ops][resize]") {
  const std::int64_t side = 3000;  // 9e6 bytes of 255 are more than an i32 holds
  const Tensor planes = full({1, 3, side, side}, 255, {.dtype = DType::u8}), pixels = planes.as_strided({3, side, side}, {1, 3 * side, 3}, 0);
  const Tensor box = Tensor::from({std::int64_t{0}, std::int64_t{0}, side, side}, {1, 4});
  const auto all_255 = [](const Tensor& t) {
    for (const double v : t.to_vector()) CHECK(std::abs(v - 255) < 1e-3);
  };
  all_255(global_avg_pool2d(planes));
  for (const Pair size : {Pair{1, 1}, Pair{1, 2}}) {
    all_255(crop_resize_area(pixels, box, size));
    all_255(crop_resize_area(planes.as_strided({3, side, side}, {side * side, side, 1}, 0), box, size));
  }
}

TEST_CASE("warp_affine takes a bounded number of samples, whatever the matrix", "[ops][resize]") {
  const Tensor image = bytes({3, 40, 50}, 4);
  const double huge = std::numeric_limits<double>::max();
  for (const double shrink : {200., 1e6, 1e18, 1e100, std::sqrt(huge), huge}) {
    const Tensor m = Tensor::from({shrink, 0., 20., 0., shrink, 20.}, {1, 2, 3}), fast = warp_affine(image, m, {2, 2}, 10, .5f);
    const Capped ref(Level::ref);
    const auto expected = warp_affine(image, m, {2, 2}, 10, .5f).to_vector(), got = fast.to_vector();
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - expected[i]) < 1e-4);
  }
}

TEST_CASE("nms of 10,000 candidates and of none", "[ops][detector]") {
  CHECK(nms(Tensor::empty({0, 4}), Tensor::empty({0}), .5).numel() == 0);
  // A crowd as P-Net makes it: windows of a few sizes on a lattice, scores that tie often.
  const std::int64_t n = 10000;
  const Tensor boxes = Tensor::empty({n, 4}), scores = Tensor::empty({n});
  for (std::int64_t i = 0; i < n; ++i) {
    const auto draw = [&](std::uint64_t stream, std::int64_t range) { return static_cast<float>(philox_integer(3, stream, static_cast<std::uint64_t>(i), range)); };
    const float side = 20.f * static_cast<float>(1 << static_cast<int>(draw(0, 5))), x = 3 * draw(1, 640), y = 3 * draw(2, 360);
    const float corners[4] = {x, y, x + side, y + side};
    std::copy_n(corners, 4, boxes.data<float>() + 4 * i);
    scores.data<float>()[i] = .6f + .001f * draw(3, 400);
  }
  for (const NmsMode mode : {NmsMode::union_, NmsMode::min})
    for (const double threshold : {.3, .7}) {
      const Tensor fast = nms(boxes, scores, threshold, mode);
      const Capped ref(Level::ref);
      const Tensor slow = nms(boxes, scores, threshold, mode);
      REQUIRE(fast.numel() == slow.numel());
      CHECK(std::equal(fast.data<std::int64_t>(), fast.data<std::int64_t>() + fast.numel(), slow.data<std::int64_t>()));
    }
}

TEST_CASE("what reads a borrowed picture stays inside its memory", "[ops][detector]") {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), room = 64 * page;
  auto* memory = static_cast<std::uint8_t*>(mmap(nullptr, room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(memory != MAP_FAILED);
  REQUIRE(mprotect(memory, page, PROT_NONE) == 0);  // a touch of either ends the test
  REQUIRE(mprotect(memory + page + room, page, PROT_NONE) == 0);
  for (std::size_t i = 0; i < room; ++i) memory[page + i] = static_cast<std::uint8_t>(i * 7 + i / 251);
  const PnetWeights weights = random_pnet();
  const auto results = [&](const Tensor& picture) {
    const std::int64_t h = picture.size(1), w = picture.size(2);
    const PnetCandidates c = pnet_candidates(picture, Tensor::from({h, w, h * 3 / 4, w * 3 / 4, (h + 11) / 2, (w + 12) / 2}, {3, 2}), weights, 0);
    const Tensor boxes = Tensor::from({std::int64_t{0}, std::int64_t{0}, w, h, w - 7, h - 5, w, h, std::int64_t{0}, h - 1, w, h}, {3, 4});
    const Tensor turned = Tensor::from({.9, -.3, 2.0, .3, .9, -3.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0}, {2, 2, 3});
    return std::vector{c.values, crop_resize_area(picture, boxes, {24, 24}), crop_resize_area(picture, boxes, {48, 5}), warp_affine(picture, turned, {h, w})};
  };
  for (const Level level : {Level::ref, Level::base, Level::avx2, Level::avx512})
    for (const auto& [h, w] : {std::pair<std::int64_t, std::int64_t>{16, 15}, {17, 40}, {61, 47}, {120, 161}}) {
      INFO(name(level) << ", " << w << "x" << h);
      const Capped capped(std::min(level, max_cpu_level()));
      const auto size = static_cast<std::size_t>(h * w * 3);
      for (std::uint8_t* at : {memory + page, memory + page + room - size}) {
        const auto planes = [&](const Tensor& t) { return t.as_strided({3, h, w}, {1, w * 3, 3}, 0); };
        const std::span<const std::uint8_t> pixels(at, size);
        const auto there = results(planes(Tensor::borrow(pixels, {h, w, 3}))), copied = results(planes(Tensor::from(pixels, {h, w, 3})));
        for (std::size_t i = 0; i < there.size(); ++i) CHECK(there[i].to_vector() == copied[i].to_vector());
      }
    }
  munmap(memory, room + 2 * page);
}

}  // namespace mien::test

// The convolutions of Inception-ResNet-v1 (160x160) and MobileFaceNet (112x112) as packed inference runs them: siblings merged, bias, residual and
// activation fused.
#pragma once

#include <string>
#include <vector>

#include "mien/kernels/params.h"

namespace lab {

struct Layer {
  std::string name;
  std::int64_t c, h, w;
  std::vector<std::int64_t> outputs;
  std::int64_t kh = 1, kw = 1, stride = 1, ph = 0, pw = 0;
  mien::Activation activation = mien::Activation::relu;
  bool residual = false, depthwise = false;
  int count = 1;
  std::int64_t oh() const { return (h + 2 * ph - kh) / stride + 1; }
  std::int64_t ow() const { return (w + 2 * pw - kw) / stride + 1; }
  std::int64_t o() const {
    std::int64_t n = 0;
    for (const auto v : outputs) n += v;
    return n;
  }
  double macs() const { return static_cast<double>(oh() * ow() * kh * kw * o()) * static_cast<double>(depthwise ? 1 : c); }
};

inline std::vector<Layer> inception_resnet_v1() {
  using enum mien::Activation;
  return {
      {"1a 3x3/2 3>32 stem", 3, 160, 160, {32}, 3, 3, 2},
      {"2a 3x3 32>32", 32, 79, 79, {32}, 3, 3},
      {"2b 3x3 32>64 p1", 32, 77, 77, {64}, 3, 3, 1, 1, 1},
      {"3b 1x1 64>80", 64, 38, 38, {80}},
      {"4a 3x3 80>192", 80, 38, 38, {192}, 3, 3},
      {"4b 3x3/2 192>256", 192, 36, 36, {256}, 3, 3, 2},
      {"35 1x1 256>3x32", 256, 17, 17, {32, 32, 32}, 1, 1, 1, 0, 0, relu, false, false, 5},
      {"35 3x3 32>32 p1", 32, 17, 17, {32}, 3, 3, 1, 1, 1, relu, false, false, 15},
      {"35 1x1 96>256 +res", 96, 17, 17, {256}, 1, 1, 1, 0, 0, relu, true, false, 5},
      {"6a 3x3/2 256>384", 256, 17, 17, {384}, 3, 3, 2},
      {"6a 1x1 256>192", 256, 17, 17, {192}},
      {"6a 3x3 192>192 p1", 192, 17, 17, {192}, 3, 3, 1, 1, 1},
      {"6a 3x3/2 192>256", 192, 17, 17, {256}, 3, 3, 2},
      {"17 1x1 896>2x128", 896, 8, 8, {128, 128}, 1, 1, 1, 0, 0, relu, false, false, 10},
      {"17 1x7 128>128", 128, 8, 8, {128}, 1, 7, 1, 0, 3, relu, false, false, 10},
      {"17 7x1 128>128", 128, 8, 8, {128}, 7, 1, 1, 3, 0, relu, false, false, 10},
      {"17 1x1 256>896 +res", 256, 8, 8, {896}, 1, 1, 1, 0, 0, relu, true, false, 10},
      {"7a 1x1 896>3x256", 896, 8, 8, {256, 256, 256}},
      {"7a 3x3/2 256>384", 256, 8, 8, {384}, 3, 3, 2},
      {"7a 3x3/2 256>256", 256, 8, 8, {256}, 3, 3, 2, 0, 0, relu, false, false, 2},
      {"7a 3x3 256>256 p1", 256, 8, 8, {256}, 3, 3, 1, 1, 1},
      {"8 1x1 1792>2x192", 1792, 3, 3, {192, 192}, 1, 1, 1, 0, 0, relu, false, false, 6},
      {"8 1x3 192>192", 192, 3, 3, {192}, 1, 3, 1, 0, 1, relu, false, false, 6},
      {"8 3x1 192>192", 192, 3, 3, {192}, 3, 1, 1, 1, 0, relu, false, false, 6},
      {"8 1x1 384>1792 +res", 384, 3, 3, {1792}, 1, 1, 1, 0, 0, relu, true, false, 6},
      {"fc 1792>512", 1792, 1, 1, {512}, 1, 1, 1, 0, 0, none},
  };
}

inline std::vector<Layer> mobilefacenet() {
  using enum mien::Activation;
  std::vector<Layer> all{{"stem 3x3/2 3>64", 3, 112, 112, {64}, 3, 3, 2, 1, 1, prelu}, {"dw 3x3 64 @56", 64, 56, 56, {64}, 3, 3, 1, 1, 1, prelu, false, true}};
  const auto block = [&](std::int64_t c, std::int64_t o, std::int64_t expansion, std::int64_t size, std::int64_t stride, bool residual, int count) {
    const std::int64_t wide = c * expansion;
    const std::string at = " @" + std::to_string(size);
    all.push_back({"1x1 " + std::to_string(c) + ">" + std::to_string(wide) + at, c, size, size, {wide}, 1, 1, 1, 0, 0, prelu, false, false, count});
    all.push_back({"dw 3x3/" + std::to_string(stride) + " " + std::to_string(wide) + at, wide, size, size, {wide}, 3, 3, stride, 1, 1, prelu, false, true, count});
    const std::int64_t out = (size - 1) / stride + 1;
    all.push_back({"1x1 " + std::to_string(wide) + ">" + std::to_string(o) + (residual ? " +res" : ""), wide, out, out, {o}, 1, 1, 1, 0, 0, none, residual, false, count});
  };
  block(64, 64, 2, 56, 2, false, 1);
  block(64, 64, 2, 28, 1, true, 4);
  block(64, 128, 4, 28, 2, false, 1);
  block(128, 128, 2, 14, 1, true, 6);
  block(128, 128, 4, 14, 2, false, 1);
  block(128, 128, 2, 7, 1, true, 2);
  all.push_back({"1x1 128>512 @7", 128, 7, 7, {512}, 1, 1, 1, 0, 0, prelu});
  all.push_back({"dw 7x7 512", 512, 7, 7, {512}, 7, 7, 1, 0, 0, none, false, true});
  all.push_back({"fc 512>512", 512, 1, 1, {512}, 1, 1, 1, 0, 0, none});
  return all;
}

}  // namespace lab

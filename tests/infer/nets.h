// Every net of mien as a plan sees it: with weights that are not those of the start, and inputs for any batch.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "catch.h"
#include "mien/autograd/autograd.h"
#include "mien/infer/infer.h"
#include "mien/layers/module.h"
#include "mien/models/facenet/inception_resnet_v1.h"
#include "mien/models/lenet/lenet.h"
#include "mien/models/mobilefacenet/mobilefacenet.h"
#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/tensor/generator.h"

namespace mien::test {

struct Net {
  std::string name;
  std::shared_ptr<Module> module;
  infer::Forward forward;
  Shape input;  // of one image
};

// Values as after some training: running statistics and slopes that differ from channel to channel.
inline void shake(Module& net) {
  const NoGrad guard;
  std::uint64_t seed = 1;
  for (auto& [name, value] : net.state_dict()) {
    if (value.rank() > 1) continue;
    float* v = value.data<float>();
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      v[i] = std::abs(v[i]) * (.75f + .5f * static_cast<float>(seed >> 40) / static_cast<float>(1 << 24)) +
             (v[i] == 0 ? .1f * (static_cast<float>(seed >> 40) / static_cast<float>(1 << 24) - .5f) : 0);
    }
  }
  net.eval();
}

template <class M, class... A>
Net make_net(const std::string& name, const Shape& input, A&&... a) {
  auto m = std::make_shared<M>(std::forward<A>(a)...);
  shake(*m);
  return {name, m,
          [m](std::span<const Tensor> x) {
            if constexpr (std::is_same_v<decltype(m->forward(x[0])), MtcnnOutput>) {
              const MtcnnOutput o = m->forward(x[0]);
              return o.points.defined() ? std::vector<Tensor>{o.logits, o.boxes, o.points} : std::vector<Tensor>{o.logits, o.boxes};
            } else {
              return std::vector<Tensor>{m->forward(x[0])};
            }
          },
          input};
}

inline std::vector<Net> all_nets() {
  std::vector<Net> nets{make_net<LeNet>("LeNet", {1, 28, 28}),
                        make_net<PNet>("P-Net", {3, 12, 12}),
                        make_net<RNet>("R-Net", {3, 24, 24}),
                        make_net<ONet>("O-Net", {3, 48, 48}),
                        make_net<InceptionResnetV1>("Inception-ResNet-v1 / 8", {3, 96, 96}, InceptionResnetV1Options{.repeats = {2, 2, 2}, .divisor = 8}),
                        make_net<MobileFaceNet>("MobileFaceNet", {3, 48, 48}, MobileFaceNetOptions{.height = 48, .width = 48, .size = 64})};
  auto pnet = std::make_shared<PNet>();
  shake(*pnet);
  nets.push_back({"P-Net maps",
                  pnet,
                  [pnet](std::span<const Tensor> x) {
                    const MtcnnOutput o = pnet->maps(x[0]);
                    return std::vector<Tensor>{o.logits, o.boxes};
                  },
                  {3, 37, 50}});
  return nets;
}

inline Tensor images(const Shape& image, std::int64_t n, std::uint64_t seed = 5) {
  Shape shape{n};
  for (const auto s : image) shape.push_back(s);
  Generator generator(seed);
  return uniform(shape, -1, 1, {.generator = &generator});
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const Tensor x = contiguous(a), y = contiguous(b);
  return std::memcmp(x.raw_data(), y.raw_data(), static_cast<std::size_t>(x.numel() * item_size(x.dtype()))) == 0;
}

}  // namespace mien::test

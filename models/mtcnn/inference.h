// The nets of MTCNN for detection only: weights packed once, each net one fused op.
//
//   const mtcnn::Inference nets(trained);
//   Tensor rows = nets.rnet(crops);      // [N, 6]: no face, face, offsets of x1 y1 x2 y2
//
// Thread safety: all of it is const; many threads may share one.
#pragma once

#include <vector>

#include "mien/models/mtcnn/mtcnn.h"
#include "mien/ops/conv_chain.h"
#include "mien/ops/pnet.h"

namespace mien::mtcnn {

class Inference {
 public:
  // Takes the weights as they are now; later steps of a training are not seen.
  explicit Inference(const Mtcnn& nets, Device device = {});
  // Where it runs: pictures and crops must be there, results are.
  Device device() const noexcept { return device_; }

  // Image u8 [3, H, W], sizes of the scales i64 [S, 2]: see ops/pnet.h.
  PnetCandidates candidates(const Tensor& image, const Tensor& sizes, float threshold) const { return pnet_candidates(image, sizes, pnet_, threshold); }
  // Crops f32 [N, 3, 24, 24] -> [N, 6]: logits (no face, face) and offsets of x1 y1 x2 y2.
  Tensor rnet(const Tensor& x) const { return run(x, rnet_); }
  // Crops f32 [N, 3, 48, 48] -> [N, 16]: as R-Net, then the points x1..x5 y1..y5.
  Tensor onet(const Tensor& x) const { return run(x, onet_); }

 private:
  struct Chain {
    std::vector<ConvChainWeights> weights;
    std::vector<ChainLayer> layers;
  };
  static Tensor run(const Tensor& x, const Chain& net);

  Device device_;
  PnetWeights pnet_;
  Chain rnet_, onet_;
};

}  // namespace mien::mtcnn

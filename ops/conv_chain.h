// A whole small net over a batch of crops: layers of convolution, bias, PReLU and max pooling in one call, with weights packed once. No derivative.
// Fast where maps are small and pictures many: the CPU kernels work on as many pictures at a time as a vector has lanes (16, 8 or 4), so that a batch costs what
// the next multiple costs.
//
//   const std::vector<ConvChainWeights> net{{pack_conv_weights(w1), b1, s1}, {pack_conv_weights(w2), b2, {}}};
//   Tensor y = conv_chain(crops, net, {{.channels = 32, .kernel = 3, .pool = 3, .prelu = true}, {.channels = 10}});
#pragma once

#include <span>

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

struct ConvChainWeights {
  Tensor weight;       // pack_conv_weights of [channels, C, kernel, kernel]
  Tensor bias, slope;  // [channels]; slope undefined without PReLU
};

// x [N, C, H, W] f32 or f64 -> [N, channels of the last layer, OH, OW], contiguous. Convolutions have stride 1 and no padding; pools have stride 2 and round up.
// A dense layer over a map is a convolution as large as the map. Throws ShapeError, DTypeError; ValueError without layers or with more than 8.
Tensor conv_chain(const Tensor& x, std::span<const ConvChainWeights> weights, std::span<const ChainLayer> layers);

}  // namespace mien

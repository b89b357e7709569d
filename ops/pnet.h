// The first stage of MTCNN as one op: from a picture to the cells where P-Net sees a face, without any map in between (see models/mtcnn/mtcnn.h for the net).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "mien/kernels/params.h"
#include "mien/tensor/tensor.h"

namespace mien {

// The layers' parameters in the order of the net: weight, bias and slope of conv1, conv2 and conv3, weight and bias of conv4_1 (face or not) and conv4_2 (box).
using PnetWeights = std::array<Tensor, 13>;

// Cells of all scales whose probability of a face reaches the threshold, scale after scale, row by row.
struct PnetCandidates {
  Tensor cells;   // i64 [K]: row * columns + column of the scale's map of ((h-1)/2 - 4) x ((w-1)/2 - 4) cells; only the first sum(counts) hold anything
  Tensor values;  // f32 [K, 5]: probability, offsets of x1 y1 x2 y2
  Tensor counts;  // i64 [S]
};

// image u8 [3, H, W] (any strides; fast when the channels lie side by side), sizes i64 [S, 2] = height and width of every scale, at least 11 each; best on the CPU,
// wherever the picture is: they are read here. Each scale is the area resize of the whole picture, (x - 127.5) / 128. ShapeError, DTypeError, ValueError for what
// does not fit. NotImplemented on a GPU for more scales than pnet_scales_at_once says. No derivative.
PnetCandidates pnet_candidates(const Tensor& image, const Tensor& sizes, const PnetWeights& weights, float threshold);

// How many of the scales, from the first on, one call takes on every device: at least one. Scales know nothing of each other, so the others may follow in further calls.
std::size_t pnet_scales_at_once(std::span<const std::array<std::int64_t, 2>> sizes);

}  // namespace mien

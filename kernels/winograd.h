// Winograd's F(4x4, 3x3): a 4x4 patch of the output of a 3x3 convolution with stride 1 from 36 products a channel instead of 144.
//
//   Y = A^T [ (G g G^T) * (B^T d B) ] A     d: 6x6 of the input, g: 3x3 weights, *: elementwise, summed over channels before A^T . A
//
// Interpolation points 0, +-1/sqrt 2, +-sqrt 2 and infinity: with these the error is about twice that of a direct sum in f32 (four times with +-1, +-2),
// because the rows of B and A stay of like size. Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015; Toom and Cook's
// construction for the matrices.
#pragma once

#include <cstdint>

namespace mien::winograd {

inline constexpr std::int64_t side = 6, outputs = 4, products = side * side;  // of a patch: input side, output side, products
// Whether it is faster than a direct sum: channels enough that the products outweigh the transforms, and in whole vectors of every level; patches that
// fit the map. Measured with bench/lab/winograd.
constexpr bool pays(std::int64_t channels, std::int64_t out_channels, std::int64_t out_h, std::int64_t out_w) {
  const std::int64_t covered = (out_h + outputs - 1) / outputs * outputs * ((out_w + outputs - 1) / outputs * outputs);
  return channels % 16 == 0 && channels >= 32 && out_channels >= 32 && 10 * out_h * out_w >= 6 * covered;
}

inline constexpr double root = 1.41421356237309504880, half_root = root / 2;

inline constexpr double input[6][6] = {  // B^T
    {1, 0, -2.5, 0, 1, 0},
    {0, -2 * half_root, -2, half_root, 1, 0},
    {0, 2 * half_root, -2, -half_root, 1, 0},
    {0, -.5 * root, -.5, root, 1, 0},
    {0, .5 * root, -.5, -root, 1, 0},
    {0, 1, 0, -2.5, 0, 1}};
inline constexpr double weight[6][3] = {  // G
    {1, 0, 0},
    {-2. / 3, -2. / 3 * half_root, -1. / 3},
    {-2. / 3, 2. / 3 * half_root, -1. / 3},
    {1. / 6, root / 6, 1. / 3},
    {1. / 6, -root / 6, 1. / 3},
    {0, 0, 1}};
inline constexpr double output[4][6] = {  // A^T
    {1, 1, 1, 1, 1, 0},
    {0, half_root, -half_root, root, -root, 0},
    {0, .5, .5, 2, 2, 0},
    {0, .5 * half_root, -.5 * half_root, 2 * root, -2 * root, 1}};

}  // namespace mien::winograd

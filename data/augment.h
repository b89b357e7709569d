// Random changes of aligned crops: what a net must not care about. Every draw follows from (seed, stream) alone.
#pragma once

#include <cstdint>

#include "mien/tensor/view.h"

namespace mien {

// Each share or range is drawn uniformly and independently; 0 switches a change off. Probabilities: flip, gray, blur, erase.
struct Augmentation {
  double flip = .5;         // mirrored
  double rotate = 8;        // degrees, to both sides
  double zoom = .08;        // share of the size, larger and smaller
  double shift = .04;       // share of the side, each axis
  double brightness = .2;   // share of the full range
  double contrast = .25;    // around the crop's mean
  double saturation = .3;   // around each pixel's gray
  double gray = .1;
  double blur = .15;        // a binomial filter of 3 or 5 taps: what a small or shaken picture lacks
  double erase = .25;       // a rectangle of 2 to 20 % of the area in one random colour (Zhong et al., "Random erasing", 2020)
  // All ranges and all probabilities but the flip's times `strength`.
  Augmentation scaled(double strength) const;
  static Augmentation none() { return Augmentation{.flip = 0}.scaled(0); }
};

// crop: u8 [3, H, W] (any strides), at least as large as `out`, whose middle part is what the net sees: the border is what turning and shifting bring in.
// out: f32 [3, h, w] contiguous, (x - mean) * scale. Thread-safe.
void augment_crop(const View& crop, const View& out, const Augmentation& augmentation, std::uint64_t seed, std::uint64_t stream, float mean, float scale);

}  // namespace mien

// Affine maps, and area resizing (adaptive average pooling): first the sums of the rows of a window, then of its columns. For bytes the sums are whole numbers.
#include <cmath>
#include <type_traits>

#include "mien/kernels/cpu/area.h"
#include "mien/kernels/cpu/common.h"
#include "mien/kernels/warp.h"

namespace mien::MIEN_LEVEL {
namespace {

// One picture or crop of c planes; element (ch, y, x) at ch * cs + y * hs + x * ws.
template <class In>
struct Source {
  const In* data;
  std::int64_t c, h, w, cs, hs, ws;
};

// One output row `oy` of all planes. `sums` holds c * w values. Bytes: the sum of a column fits i32, that of a window may not.
template <class In, class Sum>
void resize_row(const Source<In>& s, std::int64_t oy, std::int64_t oh, std::int64_t ow, Sum* sums, float* out, std::int64_t out_plane, float mean, float scale) {
  const std::int64_t top = oy * s.h / oh, bottom = ((oy + 1) * s.h + oh - 1) / oh;
  const bool interleaved = s.cs == 1 && s.ws == s.c;
  const std::int64_t values = s.c * s.w;
  if (interleaved) {
    for (std::int64_t i = 0; i < values; ++i) sums[i] = s.data[top * s.hs + i];
    for (std::int64_t y = top + 1; y < bottom; ++y)
      for (std::int64_t i = 0; i < values; ++i) sums[i] += s.data[y * s.hs + i];
  } else {
    for (std::int64_t ch = 0; ch < s.c; ++ch)
      for (std::int64_t x = 0; x < s.w; ++x) {
        Sum total = 0;
        for (std::int64_t y = top; y < bottom; ++y) total += s.data[ch * s.cs + y * s.hs + x * s.ws];
        sums[x * s.c + ch] = total;
      }
  }
  for (std::int64_t ox = 0; ox < ow; ++ox) {
    const std::int64_t left = ox * s.w / ow, right = ((ox + 1) * s.w + ow - 1) / ow;
    const auto high = static_cast<float>(bottom - top), wide = static_cast<float>(right - left);  // divided one after the other, as PyTorch does
    for (std::int64_t ch = 0; ch < s.c; ++ch) {
      std::conditional_t<std::is_integral_v<Sum>, std::int64_t, Sum> total = 0;
      for (std::int64_t x = left; x < right; ++x) total += sums[x * s.c + ch];
      out[ch * out_plane + ox] = (static_cast<float>(total) / high / wide - mean) * scale;
    }
  }
}

template <class In, class Sum>
void area(const KernelArgs& args) {
  const View &x = args.in[0], &y = args.out[0];
  const std::int64_t n = y.size(0), c = y.size(1), oh = y.size(2), ow = y.size(3);
  for_shares(n * oh, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    Sum* sums = static_cast<Sum*>(args.workspace) + share * c * x.size(3);
    for (std::int64_t row = begin; row < end; ++row) {
      const Source<In> s{x.ptr<In>() + row / oh * x.stride(0), c, x.size(2), x.size(3), x.stride(1), x.stride(2), x.stride(3)};
      resize_row(s, row % oh, oh, ow, sums, y.ptr<float>() + row / oh * c * oh * ow + row % oh * ow, oh * ow, 0.f, 1.f);
    }
  });
}
void run_area(const KernelArgs& args) {
  if (args.in[0].dtype == DType::u8) area<std::uint8_t, std::int32_t>(args);
  else area<float, float>(args);
}
std::int64_t area_workspace(const KernelArgs& args) { return max_shares * 4 * args.in[0].size(1) * args.in[0].size(3); }
const char* decline_area(const KernelArgs& args) {
  const DType d = args.in[0].dtype;
  if ((d != DType::u8 && d != DType::f32) || args.out[0].dtype != DType::f32) return "u8 or f32 to f32 only";
  return args.out[0].is_contiguous() ? nullptr : "the output is not contiguous";
}

// f(share, k, top left corner of crop k, its height, its width) for all crops of one picture.
template <class F>
void for_crops(const KernelArgs& args, const F& f) {
  const View &image = args.in[0], &boxes = args.in[1];
  for_shares(args.out[0].size(0), [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const auto corner = [&](std::int64_t i) { return boxes.ptr<std::int64_t>()[k * boxes.stride(0) + i * boxes.stride(1)]; };
      f(share, k, corner(1) * image.stride(1) + corner(0) * image.stride(2), corner(3) - corner(1), corner(2) - corner(0));
    }
  });
}

template <class In, class Sum>
void crops(const KernelArgs& args) {
  const View &image = args.in[0], &y = args.out[0];
  const auto& p = args.get<CropResizeParams>();
  const std::int64_t c = y.size(1), oh = y.size(2), ow = y.size(3);
  for_crops(args, [&](std::int64_t share, std::int64_t k, std::int64_t corner, std::int64_t h, std::int64_t w) {
    Sum* sums = static_cast<Sum*>(args.workspace) + share * c * image.size(2);
    const Source<In> s{image.ptr<In>() + corner, c, h, w, image.stride(0), image.stride(1), image.stride(2)};
    for (std::int64_t oy = 0; oy < oh; ++oy) resize_row(s, oy, oh, ow, sums, y.ptr<float>() + k * c * oh * ow + oy * ow, oh * ow, p.mean, p.scale);
  });
}

bool by_rgb_rows(const KernelArgs& args) {
  const View &image = args.in[0], &y = args.out[0];
  return image.dtype == DType::u8 && image.size(0) == 3 && image.stride(0) == 1 && image.stride(2) == 3 &&
         AreaRows::fits({image.size(1), y.size(2)}, {image.size(2), y.size(3)});
}
void rgb_crops(const KernelArgs& args) {
  const View &image = args.in[0], &y = args.out[0];
  const auto& p = args.get<CropResizeParams>();
  const std::int64_t oh = y.size(2), ow = y.size(3), scratch = AreaRows::scratch_bytes(image.size(2), ow);
  for_crops(args, [&](std::int64_t share, std::int64_t k, std::int64_t corner, std::int64_t h, std::int64_t w) {
    const AreaRows rows(image.ptr<std::uint8_t>() + corner, image.stride(1), {h, oh}, {w, ow}, p.mean, p.scale, static_cast<std::byte*>(args.workspace) + share * scratch);
    for (std::int64_t oy = 0; oy < oh; ++oy) rows.row(oy, y.ptr<float>() + k * 3 * oh * ow + oy * ow, oh * ow);
  });
}

void run_crops(const KernelArgs& args) {
  if (by_rgb_rows(args)) rgb_crops(args);
  else if (args.in[0].dtype == DType::u8) crops<std::uint8_t, std::int32_t>(args);
  else crops<float, float>(args);
}
std::int64_t crops_workspace(const KernelArgs& args) {
  const View& image = args.in[0];
  return max_shares * (by_rgb_rows(args) ? AreaRows::scratch_bytes(image.size(2), args.out[0].size(3)) : 4 * image.size(0) * image.size(2));
}
const char* decline_crops(const KernelArgs& args) {
  const DType d = args.in[0].dtype;
  if ((d != DType::u8 && d != DType::f32) || args.out[0].dtype != DType::f32) return "u8 or f32 to f32 only";
  return args.out[0].is_contiguous() ? nullptr : "the output is not contiguous";
}

// One row of one crop. Positions are made in double (a picture is up to 16384 wide), weights and sums in float.
template <class In>
void warp_row(const Source<In>& s, const double* m, std::int64_t grid, std::int64_t oy, std::int64_t ow, float* out, std::int64_t out_plane, const CropResizeParams& p) {
  const float share = 1.f / static_cast<float>(grid * grid);
  for (std::int64_t ox = 0; ox < ow; ++ox) {
    float sums[4] = {};
    for (std::int64_t i = 0; i < grid; ++i)
      for (std::int64_t j = 0; j < grid; ++j) {
        const double u = static_cast<double>(ox) + (static_cast<double>(j) + .5) / static_cast<double>(grid) - .5;
        const double v = static_cast<double>(oy) + (static_cast<double>(i) + .5) / static_cast<double>(grid) - .5;
        const double sx = m[0] * u + m[1] * v + m[2], sy = m[3] * u + m[4] * v + m[5];
        if (!(sx > -1 && sy > -1 && sx < static_cast<double>(s.w) && sy < static_cast<double>(s.h))) continue;
        const double left = std::floor(sx), top = std::floor(sy);
        const auto fx = static_cast<float>(sx - left), fy = static_cast<float>(sy - top);
        const auto x = static_cast<std::int64_t>(left), y = static_cast<std::int64_t>(top);
        const float w[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
        for (std::int64_t k = 0; k < 4; ++k) {
          const std::int64_t yy = y + k / 2, xx = x + k % 2;
          if (yy < 0 || yy >= s.h || xx < 0 || xx >= s.w) continue;
          const In* from = s.data + yy * s.hs + xx * s.ws;
          for (std::int64_t c = 0; c < s.c; ++c) sums[c] += w[k] * static_cast<float>(from[c * s.cs]);
        }
      }
    for (std::int64_t c = 0; c < s.c; ++c) out[c * out_plane + ox] = (sums[c] * share - p.mean) * p.scale;
  }
}
template <class In>
void warps(const KernelArgs& args) {
  const View &image = args.in[0], &matrices = args.in[1], &y = args.out[0];
  const Source<In> s{image.ptr<In>(), image.size(0), image.size(1), image.size(2), image.stride(0), image.stride(1), image.stride(2)};
  const std::int64_t oh = y.size(2), ow = y.size(3);
  parallel_for(y.size(0) * oh, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t k = row / oh;
      double m[6];
      for (std::int64_t i = 0; i < 6; ++i) m[i] = matrices.ptr<double>()[k * matrices.stride(0) + i / 3 * matrices.stride(1) + i % 3 * matrices.stride(2)];
      const std::int64_t grid = warp_grid(std::sqrt(std::abs(m[0] * m[4] - m[1] * m[3])));
      warp_row(s, m, grid, row % oh, ow, y.ptr<float>() + k * s.c * oh * ow + row % oh * ow, oh * ow, args.get<CropResizeParams>());
    }
  });
}
void run_warps(const KernelArgs& args) {
  if (args.in[0].dtype == DType::u8) warps<std::uint8_t>(args);
  else warps<float>(args);
}
const char* decline_warps(const KernelArgs& args) {
  if (args.in[0].size(0) > 4) return "more than 4 channels";
  return decline_crops(args);
}

}  // namespace

extern const KernelEntry adaptive_avg_pool2d_entry{run_area, decline_area, area_workspace};
extern const KernelEntry crop_resize_area_entry{run_crops, decline_crops, crops_workspace};
extern const KernelEntry warp_affine_entry{run_warps, decline_warps};

}  // namespace mien::MIEN_LEVEL

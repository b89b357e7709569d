// The end of a chain of norm_conv (norm_conv.cpp): the norm of a map whose moments are known, plus another map, in one pass; and one pass on the way back.
#include "mien/kernels/cpu/norm_conv.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t chunk = 32;  // pixels whose lines stay in the first cache

std::int64_t workspace(const KernelArgs& a) { return 4 * NormTable::floats(a.in[0].size(1)); }
void forward(const KernelArgs& a) {
  const PixelRows r = pixel_rows(a.in[0]);
  const NormTable norm(static_cast<float*>(a.workspace), r.channels);
  fill(norm, a, 1, r.channels, false);
  const float *x = a.in[0].ptr<float>(), *added = a.in.size() > 5 ? a.in[5].ptr<float>() : nullptr;
  float* y = a.out[0].ptr<float>();
  parallel_for(r.pixels, pixel_grain(r), [&](std::int64_t begin, std::int64_t end) {
    const NormTable t = norm;
    for (std::int64_t at = begin * r.channels; at < end * r.channels; at += r.channels)
      for (std::int64_t c = 0; c < r.channels; c += lanes) {
        call_up(x + at + c + page_floats);
        call_up(y + at + c + page_floats);
        if (added) call_up(added + at + c + page_floats);
        const Vec v = Normal<Activation::none>(t, c)(x + at + c);
        Store(added ? Add(v, Load(added + at + c)) : v, y + at + c);
      }
  });
}

std::int64_t backward_workspace(const KernelArgs& a) { return ShareSums::bytes(3, a.in[0].size(1)) + workspace(a); }
void backward(const KernelArgs& a) {
  constexpr std::size_t first = 2;
  const PixelRows r = pixel_rows(a.in[0]);
  const ShareSums sums{static_cast<double*>(a.workspace), 3, r.channels};
  const NormTable norm(reinterpret_cast<float*>(sums.data + max_shares * 3 * r.channels), r.channels);
  fill(norm, a, first, r.channels, false);
  const float *g = a.in[0].ptr<float>(), *x = a.in[1].ptr<float>();
  float* gx = a.out[0].ptr<float>();
  const std::int64_t chunks = ceil_div(r.pixels, chunk), ahead = chunk * r.channels;
  for_shares(chunks, [&](std::int64_t share, std::int64_t begin, std::int64_t end) {
    sums.clear(share);
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t base = k * ahead, count = std::min(chunk, r.pixels - k * chunk);
      Cursor next_g{g + base + ahead}, next_x{x + base + ahead}, next_gx{gx + base + ahead};
      for (std::int64_t c = 0; c < r.channels; c += lanes) {
        NormBack back(norm, c);
        for (std::int64_t p = 0, at = base + c; p < count; ++p, at += r.channels) {
          next_g.call();
          next_x.call();
          next_gx.call();
          Store(back.through<Activation::none>(Load(g + at), Load(x + at)), gx + at);
        }
        back.add_to(sums.of(share, 0) + c, r.channels);
      }
    }
  });
  store_norm_gradients(a, sums, shares_of(chunks), first, 1);
}

const char* decline_rows(const KernelArgs& a, const View& other) {
  if (!all_f32(a)) return "f32 only";
  for (const View* v : {&a.in[0], &other, &a.out[0]})
    if (!v->is_channels_last()) return "not channels_last";
  if (a.in[0].size(1) % lanes != 0) return "channels are no multiple of a vector";
  return a.in[0].numel() > 0 ? nullptr : "empty";
}
const char* decline(const KernelArgs& a) { return decline_rows(a, a.in.size() > 5 ? a.in[5] : a.in[0]); }
const char* decline_backward(const KernelArgs& a) { return decline_rows(a, a.in[1]); }

}  // namespace

extern const KernelEntry norm_add_entry{forward, decline, workspace};
extern const KernelEntry norm_add_backward_entry{backward, decline_backward, backward_workspace};

}  // namespace mien::MIEN_LEVEL

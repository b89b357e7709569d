// Greedy suppression that looks only at kept boxes nearby: a grid over all boxes holds those that were kept, each in every cell it touches. Boxes that share no
// point have no overlap, so the result is that of kernels/ref/nms.cpp, with the same arithmetic for every pair that is looked at.
#include <algorithm>
#include <cmath>

#include "mien/kernels/cpu/common.h"

namespace mien::MIEN_LEVEL {
namespace {

struct Box {
  float x1, y1, x2, y2;
};
float area(const Box& b, float offset) { return (b.x2 - b.x1 + offset) * (b.y2 - b.y1 + offset); }

float overlap(const Box& a, const Box& b, const NmsParams& p) {
  const auto offset = static_cast<float>(p.offset);
  const float w = std::max(0.f, std::min(a.x2, b.x2) - std::max(a.x1, b.x1) + offset);
  const float h = std::max(0.f, std::min(a.y2, b.y2) - std::max(a.y1, b.y1) + offset);
  const float common = w * h, area_a = area(a, offset), area_b = area(b, offset);
  return common / (p.mode == NmsMode::min ? std::min(area_a, area_b) : area_a + area_b - common);
}

constexpr std::int32_t none = -1;
constexpr std::int64_t most_cells = 16;  // of one box; larger ones are looked at by all

struct Entry {  // a kept box in a cell's list
  std::int32_t box, next;
};

// The grid: about one cell a box, none smaller than half the mean box.
struct Grid {
  float x0 = 0, y0 = 0, per_pixel = 0;
  std::int64_t side = 1;
  std::int64_t column(float x) const { return at(x - x0); }
  std::int64_t row(float y) const { return at(y - y0); }

 private:
  std::int64_t at(float distance) const { return per_pixel > 0 ? std::clamp(static_cast<std::int64_t>(distance * per_pixel), std::int64_t{0}, side - 1) : 0; }
};
std::int64_t side_of(std::int64_t n) { return std::clamp(static_cast<std::int64_t>(std::sqrt(static_cast<double>(n))), std::int64_t{1}, std::int64_t{256}); }

struct Lists {
  Box* boxes;
  std::int64_t* order;
  std::int32_t* cells;   // the first entry of each cell's list
  Entry* entries;
  std::int32_t* large;   // kept boxes that no cell lists
  static std::int64_t bytes(std::int64_t n) { return n * (16 + 8 + 4 + 8 * most_cells) + side_of(n) * side_of(n) * 4 + 5 * 64; }
  Lists(void* workspace, std::int64_t n) {
    auto* at = static_cast<std::byte*>(workspace);
    const auto take = [&](std::int64_t bytes) {
      std::byte* p = at;
      at += round_up(bytes, 64);
      return p;
    };
    boxes = reinterpret_cast<Box*>(take(16 * n));
    order = reinterpret_cast<std::int64_t*>(take(8 * n));
    cells = reinterpret_cast<std::int32_t*>(take(4 * side_of(n) * side_of(n)));
    entries = reinterpret_cast<Entry*>(take(8 * most_cells * n));
    large = reinterpret_cast<std::int32_t*>(take(4 * n));
  }
};

// False where a grid makes no sense: coordinates that are not finite, or no extent.
bool make_grid(const Lists& l, std::int64_t n, const NmsParams& p, Grid& grid) {
  const auto offset = static_cast<float>(p.offset);
  Box all = l.boxes[0];
  double sides = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const Box& b = l.boxes[i];
    if (!(std::abs(b.x1) < 1e6f && std::abs(b.y1) < 1e6f && std::abs(b.x2) < 1e6f && std::abs(b.y2) < 1e6f)) return false;
    all = {std::min(all.x1, b.x1), std::min(all.y1, b.y1), std::max(all.x2, b.x2), std::max(all.y2, b.y2)};
    sides += static_cast<double>(std::max(b.x2 - b.x1, b.y2 - b.y1) + offset);
  }
  const float extent = std::max(all.x2 - all.x1, all.y2 - all.y1) + offset;
  if (!(extent > 0)) return false;
  grid.side = side_of(n);
  grid.x0 = all.x1;
  grid.y0 = all.y1;
  const float cell = std::max(extent / static_cast<float>(grid.side), static_cast<float>(sides / static_cast<double>(n)) * .5f);
  if (!(cell > 0)) return false;
  grid.per_pixel = 1 / cell;
  return true;
}

// Whether a kept box overlaps box i too much; then, if none does, box i becomes one of the kept.
class Kept {
 public:
  Kept(const Lists& lists, const Grid& grid, const NmsParams& p) : l_(lists), grid_(grid), p_(p) { std::fill_n(l_.cells, grid.side * grid.side, none); }

  bool takes(std::int64_t i) {
    const Box& b = l_.boxes[i];
    // One pixel more on each side: with an offset of 1, boxes that lie side by side overlap.
    const auto offset = static_cast<float>(p_.offset);
    const std::int64_t left = grid_.column(b.x1), right = std::max(left, grid_.column(b.x2 + offset)), top = grid_.row(b.y1), bottom = std::max(top, grid_.row(b.y2 + offset));
    for (std::int64_t k = 0; k < large_; ++k)
      if (too_close(l_.large[k], b)) return false;
    for (std::int64_t y = top; y <= bottom; ++y)
      for (std::int64_t x = left; x <= right; ++x)
        for (std::int32_t e = l_.cells[y * grid_.side + x]; e != none; e = l_.entries[e].next)
          if (too_close(l_.entries[e].box, b)) return false;
    const auto box = static_cast<std::int32_t>(i);
    if ((right - left + 1) * (bottom - top + 1) > most_cells) {
      l_.large[large_++] = box;
      return true;
    }
    for (std::int64_t y = top; y <= bottom; ++y)
      for (std::int64_t x = left; x <= right; ++x) {
        std::int32_t& first = l_.cells[y * grid_.side + x];
        l_.entries[entries_] = {box, first};
        first = entries_++;
      }
    return true;
  }

 private:
  bool too_close(std::int32_t kept, const Box& b) const { return static_cast<double>(overlap(l_.boxes[kept], b, p_)) > p_.threshold; }

  const Lists& l_;
  const Grid& grid_;
  const NmsParams& p_;
  std::int64_t large_ = 0;
  std::int32_t entries_ = 0;
};

void run(const KernelArgs& args) {
  const auto& p = args.get<NmsParams>();
  const View &vb = args.in[0], &vs = args.in[1], &vk = args.out[0];
  const std::int64_t n = vs.size(0);
  const Lists l(args.workspace, n);
  const float* scores = vs.ptr<float>();
  auto* kept = vk.ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    const float* b = vb.ptr<float>() + i * vb.stride(0);
    l.boxes[i] = {b[0], b[vb.stride(1)], b[2 * vb.stride(1)], b[3 * vb.stride(1)]};
    l.order[i] = i;
  }
  std::sort(l.order, l.order + n, [&](std::int64_t i, std::int64_t j) {  // NaN scores last
    const float a = scores[i * vs.stride(0)], b = scores[j * vs.stride(0)];
    if ((a != a) != (b != b)) return b != b;
    return a > b || (!(b > a) && i < j);
  });
  Grid grid;
  if (n > 0 && !make_grid(l, n, p, grid)) grid = {};  // one cell: all against all
  std::int64_t count = 0;
  Kept so_far(l, grid, p);
  for (std::int64_t i = 0; i < n; ++i)
    if (so_far.takes(l.order[i])) kept[count++] = l.order[i];
  std::fill(kept + count, kept + n, std::int64_t{-1});
  *args.out[1].ptr<std::int64_t>() = count;
}

const char* decline(const KernelArgs& args) {
  if (args.in[0].dtype != DType::f32) return "f32 only";
  if (!args.out[0].is_contiguous()) return "the output is not contiguous";
  return args.in[1].size(0) > (std::int64_t{1} << 26) ? "too many boxes" : nullptr;
}
std::int64_t workspace(const KernelArgs& args) { return Lists::bytes(args.in[1].size(0)); }

}  // namespace

extern const KernelEntry nms_entry{run, decline, workspace};

}  // namespace mien::MIEN_LEVEL

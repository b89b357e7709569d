// Convolution with packed weights, bias, residual and activation: a product with output pixels as rows, read where they lie (panel_tile.h).
//
// Note [How a packed convolution is cut]: output pixels are cut into blocks whose input stays in L2; a block goes through all panel pairs, and each pair
// through all tiles of the block, so that a pair comes from memory once a block and then from L2. While one pair is at work the next is prefetched:
// at batch 1 that hides most of the time that weights need to arrive. A map with padding is copied, block by block, into one with zeros around it.
// Nothing of this changes the order of a sum.
#include "mien/kernels/cpu/packed_panels.h"

namespace mien::MIEN_LEVEL {
namespace {

constexpr std::int64_t block_bytes = 256 << 10;
constexpr std::int64_t near_bytes = 1 << 20;  // weights up to here stay in L2 from block to block

// Where values of the input lie, in floats: the picture itself or the copy with zeros around it.
struct Source {
  const float* data;                                // first tap of the first output pixel
  std::int64_t image, row, pixel, channel;
};

// A block of output pixels: whole images, or rows of one image.
struct Block {
  std::int64_t image, images, row, rows;
};

// How pixels of a block become tiles.
enum class Walk : std::uint8_t {
  even,    // all pixels lie the same step apart
  rows,    // tiles of neighbours within one output row
  groups,  // tiles of groups of group_rows neighbours, from any rows
};

struct Plan {
  PackedSizes s;
  bool planes;            // x is contiguous NCHW
  bool copied;            // with zeros around, channels side by side
  Walk walk;
  std::int64_t even_step;
  std::int64_t rows_a_block, images_a_block, blocks_an_image, blocks;
  std::int64_t copy_rows, copy_cols;   // of one image of a block's copy
  std::int64_t segments, segment_length;
  std::int64_t panels, shares_of_panels;
  std::int64_t copy_floats() const { return copied ? images_a_block * copy_rows * copy_cols * s.c : 0; }
};

Plan plan_of(const KernelArgs& a) {
  Plan p{};
  PackedSizes& s = p.s = packed_sizes(a);
  const View& x = a.in[0];
  const std::int64_t ld = pixel_step(x);
  p.planes = ld == 0;
  p.copied = s.leaves() || p.planes;
  for (const View& y : a.out) p.panels += ceil_div(y.size(1), panel_cols);

  // Rows of a block: its input and, where taps overlap, the copy fit in block_bytes.
  const std::int64_t image_pixels = s.oh * s.ow;
  const bool pointwise = !p.copied && s.taps() == 1 && s.sh == 1 && s.sw == 1;
  const std::int64_t pixel = p.copied ? s.c : ld;
  if (pointwise) p.walk = Walk::even, p.even_step = ld;
  else if (image_pixels == 1) p.walk = Walk::even, p.even_step = p.copied ? (s.reach_h() + 1) * (s.reach_w() + 1) * s.c : s.h * s.w * ld;
  else if (group_rows == 1 || (s.ow % group_rows == 0 && s.ow <= tile_rows / 2)) p.walk = Walk::groups;
  else p.walk = Walk::rows;

  const std::int64_t row_bytes = 4 * s.c * (p.copied ? (s.ow - 1) * s.sw + s.reach_w() + 1 : s.w) * s.sh;
  const std::int64_t rows = std::max<std::int64_t>(1, block_bytes / row_bytes);
  if (rows >= s.oh) {
    p.images_a_block = std::min(s.n, std::max<std::int64_t>(1, rows / s.oh));
    p.rows_a_block = s.oh;
  } else {
    p.images_a_block = 1;
    p.rows_a_block = ceil_div(s.oh, ceil_div(s.oh, rows));
  }
  p.blocks_an_image = ceil_div(s.oh, p.rows_a_block);
  p.blocks = ceil_div(s.n, p.images_a_block) * p.blocks_an_image;
  p.copy_rows = (p.rows_a_block - 1) * s.sh + s.reach_h() + 1;
  p.copy_cols = (s.ow - 1) * s.sw + s.reach_w() + 1;

  // Taps side by side are one segment.
  const bool joined = pixel == s.c && s.dw == 1;
  p.segments = joined ? s.kh : s.taps();
  p.segment_length = s.depth() / p.segments;
  // Too few blocks for the threads: the panels are dealt out as well.
  p.shares_of_panels = p.blocks >= 8 ? 1 : std::min(ceil_div(p.panels, tile_panels), ceil_div(8, p.blocks));
  return p;
}

Block block_of(const Plan& p, std::int64_t index) {
  Block b{};
  b.image = index / p.blocks_an_image * p.images_a_block;
  b.images = std::min(p.images_a_block, p.s.n - b.image);
  b.row = index % p.blocks_an_image * p.rows_a_block;
  b.rows = std::min(p.rows_a_block, p.s.oh - b.row);
  return b;
}

Source source_of_picture(const KernelArgs& a, const Plan& p) {
  const PackedSizes& s = p.s;
  const float* x = a.in[0].ptr<float>();
  if (p.planes) return {x, s.c * s.h * s.w, s.w, 1, s.h * s.w};
  const std::int64_t ld = pixel_step(a.in[0]);
  return {x, s.h * s.w * ld, s.w * ld, ld, 1};
}
Source source_of_copy(const float* copy, const Plan& p) {
  return {copy, p.copy_rows * p.copy_cols * p.s.c, p.copy_cols * p.s.c, p.s.c, 1};
}

void fill_offsets(const Plan& p, const Source& from, std::int64_t* offset) {
  const PackedSizes& s = p.s;
  const bool by_tap = p.segments > s.kh || s.kw == 1;
  for (std::int64_t i = 0; i < s.kh; ++i)
    for (std::int64_t j = 0; j < (by_tap ? s.kw : 1); ++j) *offset++ = i * s.dh * from.row + j * s.dw * from.pixel;
}

// One copied row: zeros, the part on the picture, zeros.
void copy_row(const Source& from, const float* row, std::int64_t channels, std::int64_t width, std::int64_t left, float* to, std::int64_t cols) {
  const std::int64_t begin = std::clamp<std::int64_t>(left, 0, cols), end = std::clamp<std::int64_t>(left + width, begin, cols);
  std::fill_n(to, begin * channels, 0.f);
  const float* first = row + (begin - left) * from.pixel;
  if (from.pixel == channels && from.channel == 1) std::copy_n(first, (end - begin) * channels, to + begin * channels);
  else if (from.channel == 1)
    for (std::int64_t x = begin; x < end; ++x, first += from.pixel) std::copy_n(first, channels, to + x * channels);
  else
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t x = begin; x < end; ++x) to[x * channels + c] = first[c * from.channel + (x - begin) * from.pixel];
  std::fill_n(to + end * channels, (cols - end) * channels, 0.f);
}
void copy_block(const Plan& p, const Block& b, const Source& from, float* to) {
  const PackedSizes& s = p.s;
  const std::int64_t row_floats = p.copy_cols * s.c;
  for (std::int64_t n = 0; n < b.images; ++n)
    for (std::int64_t r = 0; r < p.copy_rows; ++r, to += row_floats) {
      const std::int64_t y = b.row * s.sh - s.top + r;
      if (y < 0 || y >= s.h) std::fill_n(to, row_floats, 0.f);
      else copy_row(from, from.data + (b.image + n) * from.image + y * from.row, s.c, s.w, s.left, to, p.copy_cols);
    }
}

// f(first, count) for `count` things cut into parts of at most `most` that differ by one at most.
template <class F>
void for_parts(std::int64_t count, std::int64_t most, const F& f) {
  const std::int64_t parts = ceil_div(count, most), least = count / parts, larger = count % parts;
  std::int64_t first = 0;
  for (std::int64_t t = 0; t < parts; ++t) {
    const std::int64_t mine = least + (t < larger);
    f(first, mine);
    first += mine;
  }
}

// f(left rows, first output pixel of the block, number of rows) for every tile. `data` is tap 0 of the block's first pixel.
template <class F>
void for_tiles(const Plan& p, const Block& b, const Source& from, const float* data, const F& f) {
  const PackedSizes& s = p.s;
  const std::int64_t step = s.sw * from.pixel;
  if (p.walk == Walk::even) {
    for_parts(b.images * b.rows * s.ow, tile_rows, [&](std::int64_t first, std::int64_t rows) { f(left_rows(data + first * p.even_step, p.even_step), first, rows); });
  } else if (p.walk == Walk::rows) {
    for (std::int64_t n = 0; n < b.images; ++n)
      for (std::int64_t r = 0; r < b.rows; ++r) {
        const float* row = data + n * from.image + r * s.sh * from.row;
        for_parts(s.ow, tile_rows, [&](std::int64_t first, std::int64_t rows) { f(left_rows(row + first * step, step), (n * b.rows + r) * s.ow + first, rows); });
      }
  } else {
    LeftRows left{};
    left.step = step;
    std::int64_t image = 0, row = 0, column = 0;  // of the next group
    for_parts(b.images * b.rows * s.ow / group_rows, tile_rows / group_rows, [&](std::int64_t first, std::int64_t groups) {
      for (std::int64_t g = 0; g < groups; ++g) {
        left.group[g] = data + image * from.image + row * s.sh * from.row + column * step;
        if ((column += group_rows) < s.ow) continue;
        column = 0;
        if (++row < b.rows) continue;
        row = 0;
        ++image;
      }
      f(left, group_rows * first, group_rows * groups);
    });
  }
}
std::int64_t tiles_of(const Plan& p, const Block& b) {
  return p.walk == Walk::rows ? b.images * b.rows * ceil_div(p.s.ow, tile_rows) : ceil_div(b.images * b.rows * p.s.ow, p.walk == Walk::even ? tile_rows : tile_rows / group_rows * group_rows);
}

// Memory that will be wanted soon.
struct Stream {
  const char* data;
  std::int64_t bytes;
};
// A stream that is fetched little by little, in `turns` tiles of `steps` prefetches. Afterwards `near`, which is in the cache, again and again: a prefetch of an
// address without memory would look for its page each time.
class Turns {
 public:
  Turns(const Stream& stream, std::int64_t turns, std::int64_t steps, const float* near)
      : data_(stream.data), left_(stream.bytes), near_(reinterpret_cast<const char*>(near)), step_(ceil_div(ceil_div(left_, std::max<std::int64_t>(1, turns)), steps)), chunk_(step_ * steps) {}
  bool done() const { return left_ <= 0; }
  Ahead take() {
    if (done()) return {near_, 0, 0};
    const Ahead a{data_, step_, step_ > 64 ? step_ / 2 : 0};
    data_ += chunk_;
    left_ -= chunk_;
    return a;
  }

 private:
  const char* data_;
  std::int64_t left_;
  const char* near_;
  std::int64_t step_, chunk_;
};

// The memory that a block reads of the picture, from its first row to its last.
Stream input_of(const Plan& p, const Block& b, const Source& picture) {
  const PackedSizes& s = p.s;
  if (p.planes && b.rows < s.oh) return {nullptr, 0};
  const std::int64_t first = b.rows == s.oh ? 0 : std::clamp<std::int64_t>(b.row * s.sh - s.top, 0, s.h);
  const std::int64_t rows = b.rows == s.oh ? s.h : std::min(s.h - first, (b.rows - 1) * s.sh + s.reach_h() + 1);
  const float* data = picture.data + b.image * picture.image + first * picture.row;
  return {reinterpret_cast<const char*>(data), 4 * (b.images > 1 ? b.images * picture.image : rows * picture.row)};
}

// `input`: what the next block will read, spread over the panels of this one.
void run_block(const KernelArgs& a, const Plan& p, const Block& b, const Source& from, const Segments& segments, std::int64_t first_panel,
               std::int64_t end_panel, const Stream& input, bool weights_far) {
  const std::int64_t panel_floats = p.s.depth() * panel_cols, tiles = tiles_of(p, b), steps = ceil_div(p.s.depth(), fetch_every);
  const std::int64_t first_pixel = (b.image * p.s.oh + b.row) * p.s.ow;
  const float* data = from.data + (p.copied ? 0 : b.image * from.image + b.row * p.s.sh * from.row);
  const float* weights = a.in[1].ptr<float>();
  const bool fetch = weights_far && tiles > few_tiles, both = fetch && input.bytes;
  Turns next_input(input, ceil_div(end_panel - first_panel, tile_panels) * (both ? tiles / 2 : tiles), steps, weights);
  for (std::int64_t panel = first_panel; panel < end_panel; panel += tile_panels) {
    const std::int64_t panels = std::min<std::int64_t>(tile_panels, end_panel - panel);
    PanelOut out[2];
    for (std::int64_t i = 0; i < panels; ++i) out[i] = panel_out(a, panel + i, first_pixel);
    const float* mine = weights + panel * panel_floats;
    const std::int64_t next_bytes = fetch ? 4 * panel_floats * std::clamp<std::int64_t>(end_panel - panel - panels, 0, tile_panels) : 0;
    Turns next_panels({reinterpret_cast<const char*>(mine + panels * panel_floats), next_bytes}, both ? ceil_div(tiles, 2) : tiles, steps, mine);
    bool turn = false;  // tiles fetch panels and input by turns
    for_tiles(p, b, from, data, [&](const LeftRows& left, std::int64_t pixel, std::int64_t rows) {
      PanelOut here[2];
      for (std::int64_t i = 0; i < panels; ++i) here[i] = moved(out[i], pixel);
      turn = !next_panels.done() && (next_input.done() || !turn);
      tile_kernel_of(rows, panels, weights_far && !fetch && pixel == 0)(left, segments, mine, panel_floats, here, turn ? next_panels.take() : next_input.take());
    });
  }
}

std::int64_t offsets_bytes(const Plan& p) { return ceil_div(p.segments * 8, 64) * 64; }
std::int64_t copy_bytes(const Plan& p) { return ceil_div(p.copy_floats() * 4, 64) * 64; }

std::int64_t workspace(const KernelArgs& a) {
  const Plan p = plan_of(a);
  return offsets_bytes(p) + shares_of(p.blocks * p.shares_of_panels) * copy_bytes(p);
}

void run(const KernelArgs& a) {
  const Plan p = plan_of(a);
  const Source picture = source_of_picture(a, p);
  auto* scratch = static_cast<std::byte*>(a.workspace);
  auto* offsets = reinterpret_cast<std::int64_t*>(scratch);
  fill_offsets(p, p.copied ? source_of_copy(nullptr, p) : picture, offsets);
  const Segments segments{offsets, p.segments, p.segment_length};
  const std::int64_t pairs = ceil_div(p.panels, tile_panels);
  // A block is copied once a share: no more shares than threads then.
  const std::int64_t items = p.blocks * p.shares_of_panels, shares = p.copied ? std::min<std::int64_t>(shares_of(items), num_threads()) : shares_of(items);
  const std::int64_t weight_bytes = 4 * p.panels * p.s.depth() * panel_cols;
  parallel_for(shares, 1, [&](std::int64_t share, std::int64_t) {
    const std::int64_t begin = items * share / shares, end = items * (share + 1) / shares;
    auto* copy = reinterpret_cast<float*>(scratch + offsets_bytes(p) + share * copy_bytes(p));
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t index = item / p.shares_of_panels, part = item % p.shares_of_panels;
      const Block b = block_of(p, index);
      if (p.copied && (part == 0 || item == begin)) copy_block(p, b, picture, copy);
      const std::int64_t from = pairs * part / p.shares_of_panels * tile_panels, to = pairs * (part + 1) / p.shares_of_panels * tile_panels;
      const bool last = index + 1 == p.blocks || part + 1 < p.shares_of_panels;
      run_block(a, p, b, p.copied ? source_of_copy(copy, p) : picture, segments, from, std::min(to, p.panels),
                last ? Stream{nullptr, 0} : input_of(p, block_of(p, index + 1), picture), index == 0 || weight_bytes > near_bytes);
    }
  });
}

const char* decline(const KernelArgs& a) {
  if (const char* reason = decline_packed(a)) return reason;
  const View& x = a.in[0];
  if (!pixel_step(x) && !x.is_contiguous()) return "x is neither channels_last nor contiguous";
  return !pixel_step(x) && x.size(1) > 4 ? "x is contiguous and has many channels" : nullptr;
}

// By the form of the weights.
const KernelEntry& way(const KernelArgs& a) {
  static constexpr KernelEntry product{run, decline, workspace};
  return a.in[1].rank() == 2 ? packed_depthwise : a.in[1].rank() == 4 ? packed_winograd : product;
}

}  // namespace

extern const KernelEntry packed_conv2d_entry{[](const KernelArgs& a) { return way(a).run(a); }, [](const KernelArgs& a) { return way(a).decline(a); },
                                             [](const KernelArgs& a) { return way(a).workspace ? way(a).workspace(a) : 0; }};

}  // namespace mien::MIEN_LEVEL

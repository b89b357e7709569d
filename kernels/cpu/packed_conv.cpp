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
  threes,  // rows of 3 or 6 pixels: tiles of groups of three
};

struct Plan {
  PackedSizes s;
  bool planes;            // x is contiguous NCHW
  bool copied;            // with zeros around
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
  p.copied = s.leaves();
  for (const View& y : a.out) p.panels += ceil_div(y.size(1), panel_cols);

  // Rows of a block: its input and, where taps overlap, the copy fit in block_bytes.
  const std::int64_t image_pixels = s.oh * s.ow;
  const bool pointwise = !p.copied && !p.planes && s.taps() == 1 && s.sh == 1 && s.sw == 1;
  const std::int64_t pixel = p.copied ? s.c : p.planes ? 1 : ld;
  if (pointwise) p.walk = Walk::even, p.even_step = ld;
  else if (image_pixels == 1) p.walk = Walk::even, p.even_step = p.copied ? (s.reach_h() + 1) * (s.reach_w() + 1) * s.c : s.h * s.w * (p.planes ? s.c : ld);
  else if (s.ow % 3 == 0 && s.ow <= tile_rows / 2) p.walk = Walk::threes;
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
  const bool joined = pixel == s.c && s.dw == 1 && !p.planes;
  p.segments = p.planes ? s.depth() : joined ? s.kh : s.taps();
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
  const std::int64_t area = p.copy_rows * p.copy_cols;
  if (p.planes) return {copy, area * p.s.c, p.copy_cols, 1, area};
  return {copy, area * p.s.c, p.copy_cols * p.s.c, p.s.c, 1};
}

void fill_offsets(const Plan& p, const Source& from, std::int64_t* offset) {
  const PackedSizes& s = p.s;
  const bool by_tap = p.segments > s.kh || s.kw == 1, by_channel = p.planes;
  for (std::int64_t i = 0; i < s.kh; ++i)
    for (std::int64_t j = 0; j < (by_tap ? s.kw : 1); ++j)
      for (std::int64_t c = 0; c < (by_channel ? s.c : 1); ++c) *offset++ = i * s.dh * from.row + j * s.dw * from.pixel + c * from.channel;
}

// One run of values along a copied row: zeros, the part on the picture, zeros.
void copy_row(const float* from, std::int64_t step, std::int64_t channels, std::int64_t width, std::int64_t left, float* to, std::int64_t cols) {
  const std::int64_t begin = std::clamp<std::int64_t>(left, 0, cols), end = std::clamp<std::int64_t>(left + width, begin, cols);
  std::fill_n(to, begin * channels, 0.f);
  if (step == channels) std::copy_n(from + (begin - left) * step, (end - begin) * channels, to + begin * channels);
  else
    for (std::int64_t x = begin; x < end; ++x) std::copy_n(from + (x - left) * step, channels, to + x * channels);
  std::fill_n(to + end * channels, (cols - end) * channels, 0.f);
}
void copy_block(const Plan& p, const Block& b, const Source& from, float* to) {
  const PackedSizes& s = p.s;
  const std::int64_t planes = p.planes ? s.c : 1, channels = p.planes ? 1 : s.c, row_floats = p.copy_cols * channels;
  for (std::int64_t n = 0; n < b.images; ++n)
    for (std::int64_t c = 0; c < planes; ++c)
      for (std::int64_t r = 0; r < p.copy_rows; ++r, to += row_floats) {
        const std::int64_t y = b.row * s.sh - s.top + r;
        if (y < 0 || y >= s.h) std::fill_n(to, row_floats, 0.f);
        else copy_row(from.data + (b.image + n) * from.image + c * from.channel + y * from.row, from.pixel, channels, s.w, s.left, to, p.copy_cols);
      }
}

// f(left rows, first output pixel of the block, number of rows) for every tile. `data` is tap 0 of the block's first pixel.
template <class F>
void for_tiles(const Plan& p, const Block& b, const Source& from, const float* data, const F& f) {
  const PackedSizes& s = p.s;
  const std::int64_t step = s.sw * from.pixel;
  if (p.walk == Walk::even) {
    const std::int64_t pixels = b.images * b.rows * s.ow, tiles = ceil_div(pixels, tile_rows);
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t begin = pixels * t / tiles, end = pixels * (t + 1) / tiles;
      f(left_rows(data + begin * p.even_step, p.even_step), begin, end - begin);
    }
  } else if (p.walk == Walk::rows) {
    const std::int64_t tiles = ceil_div(s.ow, tile_rows);
    for (std::int64_t n = 0; n < b.images; ++n)
      for (std::int64_t r = 0; r < b.rows; ++r) {
        const float* row = data + n * from.image + r * s.sh * from.row;
        for (std::int64_t t = 0; t < tiles; ++t) {
          const std::int64_t begin = s.ow * t / tiles, end = s.ow * (t + 1) / tiles;
          f(left_rows(row + begin * step, step), (n * b.rows + r) * s.ow + begin, end - begin);
        }
      }
  } else {
    constexpr std::int64_t most = tile_rows / 3;
    const std::int64_t a_row = s.ow / 3, groups = b.images * b.rows * a_row, tiles = ceil_div(groups, most);
    LeftRows left{};
    left.step = step;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t begin = groups * t / tiles, end = groups * (t + 1) / tiles;
      for (std::int64_t g = begin; g < end; ++g) {
        const std::int64_t row = g / a_row;
        left.group[g - begin] = data + row / b.rows * from.image + row % b.rows * s.sh * from.row + g % a_row * 3 * step;
      }
      f(left, 3 * begin, 3 * (end - begin));
    }
  }
}

// Memory that will be wanted soon, fetched little by little while tiles are at work.
struct Stream {
  const char* data;
  std::int64_t bytes;
  // The part [begin, end) of `whole`, one prefetch for each of `steps`.
  Ahead part(std::int64_t begin, std::int64_t end, std::int64_t whole, std::int64_t steps) const {
    const std::int64_t step = ceil_div(bytes * (end - begin) / whole, steps);
    return {data + bytes * begin / whole, step, step > 64 ? step / 2 : 0};
  }
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
  const std::int64_t panel_floats = p.s.depth() * panel_cols, pixels = b.images * b.rows * p.s.ow, all = (end_panel - first_panel) * pixels;
  const std::int64_t first_pixel = (b.image * p.s.oh + b.row) * p.s.ow;
  const float* data = from.data + (p.copied ? 0 : b.image * from.image + b.row * p.s.sh * from.row);
  const float* weights = a.in[1].ptr<float>();
  for (std::int64_t panel = first_panel; panel < end_panel; panel += tile_panels) {
    const std::int64_t panels = std::min<std::int64_t>(tile_panels, end_panel - panel), done = (panel - first_panel) * pixels;
    PanelOut out[2];
    for (std::int64_t i = 0; i < panels; ++i) out[i] = panel_out(a, panel + i, first_pixel);
    const float* mine = weights + panel * panel_floats;
    // With few tiles a pair the arithmetic hides nothing of the next one: there the pair at hand is fetched, some lines before it is read.
    const bool fetch = weights_far && pixels >= 3 * tile_rows;
    const Ahead own{reinterpret_cast<const char*>(mine) + 4096, weights_far && !fetch ? 64 : 0, (panels - 1) * 4 * panel_floats};
    const Stream next{reinterpret_cast<const char*>(mine + panels * panel_floats),
                      fetch ? 4 * panel_floats * std::clamp<std::int64_t>(end_panel - panel - panels, 0, tile_panels) : 0};
    bool turn = false;  // tiles fetch panels and input by turns
    for_tiles(p, b, from, data, [&](const LeftRows& left, std::int64_t pixel, std::int64_t rows) {
      PanelOut here[2];
      for (std::int64_t i = 0; i < panels; ++i) here[i] = moved(out[i], pixel);
      const bool both = next.bytes && input.bytes;
      const std::int64_t end = std::min(pixels, pixel + (both ? 2 : 1) * rows);
      turn = both ? !turn : next.bytes != 0;
      const Ahead ahead = own.step && pixel == 0 ? own : turn ? next.part(pixel, end, pixels, p.s.depth()) : input.part(done + panels * pixel, done + panels * end, all, p.s.depth());
      tile_kernel_of(rows, panels)(left, segments, mine, panel_floats, here, ahead);
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

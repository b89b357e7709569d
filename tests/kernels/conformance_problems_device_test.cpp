// The problems of the conformance test for kernels that have no fast form on the CPU: those of MIEN_KERNELS that are not in MIEN_CPU_KERNELS.
#include "kernels/conformance_values.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/winograd.h"

namespace mien::test {
namespace {

Order flat_order(Dice& dice) { return dice.one_of({Order::contiguous, Order::contiguous, Order::stepped}); }
Operand indices(const Shape& shape, std::int64_t size, Dice& dice) {
  return filled(shape, DType::i64, flat_order(dice), dice, [&dice, size] { return static_cast<double>(dice.integer(0, size - 1)); });
}
// At least one dimension.
Shape ranked_shape(const Kind& kind, Dice& dice) {
  const Shape shape = elementwise_shape(kind, dice);
  return shape.rank() > 0 ? shape : Shape{kind.empty ? 0 : kind.width};
}
int any_dim(const Shape& shape, Dice& dice) { return static_cast<int>(dice.integer(0, shape.rank() - 1)); }
// Values to begin with that f32 holds exactly.
std::vector<double> start_values(const Shape& shape, const Values& value) {
  std::vector<double> start;
  for (std::int64_t k = 0; k < numel(shape); ++k) start.push_back(static_cast<double>(static_cast<float>(value())));
  return start;
}

// --- elementwise and moves -------------------------------------------------------------------------------------------
Problem make_where(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(shape, DType::boolean, orders.next(dice), dice, [&] { return static_cast<double>(dice.integer(0, 1)); }));
  for (int i = 0; i < 2; ++i) p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  if (kind.nan) spoil(p.in.back(), dice);
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.exact = true;
  p.text = to_string(shape);
  return p;
}

Problem make_fill(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  Problem p;
  p.out.push_back({shape, dice.chance(.6) ? DType::f32 : dice.one_of({DType::u8, DType::i32, DType::i64, DType::boolean}), any_order(dice, false), {}});
  p.set_params(FillParams{dice.one_of({0., 1., .5, 3., 250.})});
  p.exact = true;
  p.text = to_string(shape);
  return p;
}

Problem make_random(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  RandomParams q{static_cast<RandomKind>(number % 4), static_cast<std::uint64_t>(dice.integer(0, std::int64_t{1} << 40)), static_cast<std::uint64_t>(dice.integer(0, 1000)), 0, 1};
  if (q.kind == RandomKind::uniform && dice.chance(.5)) q.a = -1;  // f32 holds all values of both ranges
  if (q.kind == RandomKind::normal) q.a = dice.one_of({0., .25}), q.b = dice.one_of({1., .1});
  if (q.kind == RandomKind::dropout_mask) q.a = dice.one_of({0., .25, .5, .75});
  if (q.kind == RandomKind::integer) q.a = static_cast<double>(dice.integer(-9, 9)), q.b = q.a + static_cast<double>(dice.integer(1, 1000));
  Problem p;
  p.out.push_back({shape, q.kind == RandomKind::integer ? DType::i64 : DType::f32, output_order(dice), {}});
  p.set_params(q);
  p.exact = q.kind == RandomKind::uniform || q.kind == RandomKind::integer;
  p.text = to_string(shape) + " kind " + std::to_string(static_cast<int>(q.kind));
  return p;
}

Problem make_pad(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = ranked_shape(kind, dice);
  PadParams q{Shape::filled(shape.rank(), 0), Shape::filled(shape.rank(), 0), dice.one_of({0., .5, -2.})};
  Shape out = shape;
  for (int d = 0; d < shape.rank(); ++d) {
    q.low[d] = dice.integer(-2, 3);
    q.high[d] = std::max(dice.integer(-2, 3), -(shape[d] + q.low[d]));
    if (dice.chance(.3)) q.low[d] = q.high[d] = 0;
    out[d] = shape[d] + q.low[d] + q.high[d];
    if (out[d] < 0) q.low[d] = q.high[d] = 0, out[d] = shape[d];
  }
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  p.out.push_back({out, DType::f32, orders.next(dice, false), {}});
  p.set_params(q);
  p.exact = true;
  p.text = to_string(shape) + " low " + to_string(q.low) + " high " + to_string(q.high);
  return p;
}

Problem make_slice_backward(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = ranked_shape(kind, dice);
  SliceParams q{any_dim(shape, dice), 0, dice.one_of<std::int64_t>({1, 1, 2, 3})};
  const std::int64_t size = shape[q.dim];
  q.start = size > 0 ? dice.integer(0, size - 1) : 0;
  Shape part = shape;
  part[q.dim] = size > 0 ? dice.integer(0, (size - 1 - q.start) / q.step + 1) : 0;
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(part, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  p.out.push_back({shape, DType::f32, orders.next(dice, false), {}});
  p.set_params(q);
  p.exact = true;
  p.text = to_string(part) + " into " + to_string(shape) + " dim " + std::to_string(q.dim) + " start " + std::to_string(q.start) + " step " + std::to_string(q.step);
  return p;
}

// --- indices ---------------------------------------------------------------------------------------------------------
// Few rows among which many indices repeat, or the other way round.
struct IndexCase {
  IndexCase(const Kind& kind, Dice& dice) {
    rows = dice.chance(.6) ? Shape{dice.integer(1, 20), kind.big ? 512 : kind.width} : ranked_shape(Kind(0, dice), dice);
    dim = dice.chance(.7) ? 0 : any_dim(rows, dice);
    picked = rows;
    picked[dim] = kind.empty ? 0 : kind.big ? 700 : dice.integer(1, 40);
  }
  Shape rows, picked;
  int dim = 0;
};
Problem make_index_select(Dice& dice, int number) {
  const Kind kind(number, dice);
  const IndexCase c(kind, dice);
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(c.rows, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  p.in.push_back(indices({c.picked[c.dim]}, c.rows[c.dim], dice));
  p.out.push_back({c.picked, DType::f32, orders.next(dice, false), {}});
  if (c.dim > 0 || dice.chance(.5)) p.set_params(DimParams{c.dim});
  else p.set_params(DimParams{});
  p.exact = true;
  p.text = to_string(c.rows) + " to " + to_string(c.picked) + " dim " + std::to_string(c.dim);
  return p;
}
Problem make_index_add(Dice& dice, int number) {
  const Kind kind(number, dice);
  const IndexCase c(kind, dice);
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(c.picked, DType::f32, orders.next(dice), dice, values_of(kind, dice)));
  p.in.push_back(indices({c.picked[c.dim]}, c.rows[c.dim], dice));
  p.out.push_back({c.rows, DType::f32, orders.next(dice, false), {}});
  p.set_params(DimParams{c.dim});
  p.magnitudes = {true, false};
  p.exact = kind.whole;
  p.text = to_string(c.picked) + " into " + to_string(c.rows) + " dim " + std::to_string(c.dim);
  return p;
}
Problem pick_problem(Dice& dice, int number, bool add) {
  const Kind kind(number, dice);
  const Shape shape{kind.empty ? 0 : kind.big ? 300 : dice.integer(1, 20), kind.big ? 1000 + kind.width : kind.width}, rows{shape[0]};
  Problem p;
  p.in.push_back(input(shape, dice, values_of(kind, dice)));
  p.in.push_back(indices(rows, shape[1], dice));
  if (add) p.in.push_back(filled(rows, DType::f32, flat_order(dice), dice, values_of(kind, dice)));
  p.out.push_back({add ? shape : rows, DType::f32, add ? output_order(dice) : flat_order(dice), {}});
  p.exact = !add || kind.whole;
  p.text = to_string(shape);
  return p;
}
Problem make_pick(Dice& dice, int number) { return pick_problem(dice, number, false); }
Problem make_pick_add(Dice& dice, int number) { return pick_problem(dice, number, true); }

Problem make_arg_reduce(Dice& dice, int number) {
  const Kind kind(number, dice);
  Shape shape = ranked_shape(Kind(kind.empty ? 0 : number, dice), dice);
  if (kind.big && dice.chance(.5)) shape = {3, 4000 + kind.width};
  const ArgReduceParams q{dice.chance(.5), any_dim(shape, dice)};
  Shape out;
  const bool kept = dice.chance(.5);
  for (int d = 0; d < shape.rank(); ++d)
    if (d != q.dim || kept) out.push_back(d == q.dim ? 1 : shape[d]);
  Problem p;
  p.in.push_back(input(shape, dice, values_of(kind, dice)));
  if (kind.nan) spoil(p.in[0], dice);
  p.out.push_back({out, DType::i64, flat_order(dice), {}});
  p.set_params(q);
  p.exact = true;
  p.text = to_string(shape) + " dim " + std::to_string(q.dim);
  return p;
}

// --- losses and training ---------------------------------------------------------------------------------------------
Problem nll_problem(Dice& dice, int number, bool backward) {
  const Kind kind(number, dice);
  const Shape shape{kind.empty ? 0 : kind.big ? 300 : dice.integer(1, 20), kind.big ? 1000 : kind.width}, rows{shape[0]};
  const NllParams q{dice.chance(.5) ? -100 : 0};
  Problem p;
  if (backward) p.in.push_back(filled(rows, DType::f32, dice.chance(.2) ? Order::expanded : flat_order(dice), dice, values_of(kind, dice)));
  else p.in.push_back(input(shape, dice, values_of(kind, dice, -8, 0)));
  p.in.push_back(filled(rows, DType::i64, flat_order(dice), dice,
                        [&] { return static_cast<double>(dice.chance(.2) ? q.ignore_index : dice.integer(0, shape[1] - 1)); }));
  if (dice.chance(.5)) p.in.push_back(filled({shape[1]}, DType::f32, flat_order(dice), dice, values_of(kind, dice, .1, 2)));
  if (backward) p.out.push_back({shape, DType::f32, output_order(dice), {}});
  else p.out = {{rows, DType::f32, flat_order(dice), {}}, {rows, DType::f32, flat_order(dice), {}}};
  p.set_params(q);
  p.exact = kind.whole;
  p.text = to_string(shape);
  return p;
}
Problem make_nll(Dice& dice, int number) { return nll_problem(dice, number, false); }
Problem make_nll_backward(Dice& dice, int number) { return nll_problem(dice, number, true); }

// Whole values have ties.
Problem make_topk_mask(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape{kind.empty ? 0 : kind.big ? 3000 + kind.width : dice.integer(1, 60)};
  const double share = dice.one_of({0., .1, .7, 1.});
  Problem p;
  p.in.push_back(filled(shape, DType::f32, flat_order(dice), dice, values_of(kind, dice)));
  if (kind.nan) spoil(p.in[0], dice);
  p.in.push_back(filled(shape, DType::boolean, flat_order(dice), dice, [&] { return dice.chance(share) ? 1. : 0.; }));
  p.out.push_back({shape, DType::f32, flat_order(dice), {}});
  p.set_params(TopkParams{dice.one_of({1., .7, .25, .01})});
  p.exact = true;
  p.text = to_string(shape);
  return p;
}

Problem make_adagrad(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape shape = elementwise_shape(kind, dice);
  const Orders orders(dice);
  Problem p;
  p.in.push_back(filled(shape, DType::f32, orders.next(dice), dice, [&] { return dice.uniform(-1, 1); }));
  p.out.push_back({shape, DType::f32, orders.next(dice, false), start_values(shape, [&] { return dice.uniform(-1, 1); })});
  p.out.push_back({shape, DType::f32, orders.next(dice, false), start_values(shape, [&] { return dice.uniform(.01, 1); })});
  p.set_params(AdagradParams{.01, 1e-10, dice.one_of({0., 1e-2})});
  p.text = to_string(shape);
  return p;
}

Problem make_center_update(Dice& dice, int number) {
  const Kind kind(number, dice);
  const Shape features{kind.empty ? 0 : kind.big ? 128 : dice.integer(1, 20), kind.big ? 256 : kind.width}, centers{dice.integer(1, 12), features[1]};
  Problem p;
  p.in.push_back(input(features, dice, values_of(kind, dice)));
  p.in.push_back(indices({features[0]}, centers[0], dice));
  p.out.push_back({centers, DType::f32, dice.one_of({Order::contiguous, Order::stepped, Order::permuted}), start_values(centers, values_of(kind, dice))});
  p.set_params(CenterParams{kind.whole ? .125 : .05, !kind.whole && dice.chance(.5)});
  p.text = to_string(features) + " centers " + to_string(centers);
  return p;
}

// --- resizing --------------------------------------------------------------------------------------------------------
struct MapCase {
  MapCase(const Kind& kind, Dice& dice) {
    const std::int64_t n = kind.empty ? 0 : dice.integer(1, 3), c = dice.one_of<std::int64_t>({dice.integer(1, 9), 16, 32});
    from = {n, c, kind.big ? 33 : dice.integer(1, 9), kind.big ? 40 + kind.width : kind.width};
    to = {n, c, dice.integer(1, kind.big ? 40 : 9), dice.integer(1, kind.big ? 60 : 14)};
    const Orders orders(dice);
    in = orders.next(dice);
    out = orders.next(dice, false);
  }
  Shape from, to;
  Order in, out;
};
Problem map_problem(Dice& dice, const Kind& kind) {
  const MapCase c(kind, dice);
  Problem p;
  p.in.push_back(filled(c.from, DType::f32, c.in, dice, values_of(kind, dice)));
  p.out.push_back({c.to, DType::f32, c.out, {}});
  p.magnitudes = {true};
  p.text = to_string(c.from) + " to " + to_string(c.to);
  return p;
}
Problem make_adaptive_avg_pool2d_backward(Dice& dice, int number) { return map_problem(dice, Kind(number, dice)); }
Problem resize_problem(Dice& dice, int number, bool bytes) {
  const Kind kind(number, dice);
  Problem p = map_problem(dice, kind);
  if (bytes) {
    const Shape shape = p.in[0].view().shape;
    p.in.clear();
    p.in.push_back(filled(shape, DType::u8, any_order(dice), dice, [&] { return static_cast<double>(dice.integer(0, 255)); }));
  }
  p.magnitudes.clear();  // against max(1, |ref|): a corner's weight may be a rounding error of a coordinate
  p.set_params(ResizeParams{dice.chance(.4)});
  return p;
}
Problem make_resize_bilinear(Dice& dice, int number) { return resize_problem(dice, number, dice.chance(.3)); }
Problem make_resize_bilinear_backward(Dice& dice, int number) { return resize_problem(dice, number, false); }

// --- packing: every form that the rank of the output tells -----------------------------------------------------------
Problem make_pack_conv_weights(Dice& dice, int number) {
  const Kind kind(number, dice);
  const std::int64_t o = dice.one_of<std::int64_t>({kind.width, 16, 32, kind.big ? 100 : 5}), c = dice.integer(1, kind.big ? 70 : 35), panels = (o + packed_columns - 1) / packed_columns;
  const std::int64_t kh = dice.integer(1, 4), kw = dice.integer(1, 4);
  const int form = static_cast<int>(dice.integer(0, 3));
  Shape w{o, c, kh, kw}, packed;
  DType dtype = DType::f32;
  Values value = values_of(kind, dice);
  switch (form) {
    case 0: packed = {panels, kh * kw * c, packed_columns}; break;
    case 1:
      w[1] = 1;
      packed = {kh * kw, o};
      break;
    case 2:
      w[2] = w[3] = 3;
      packed = {panels, winograd::products, c, packed_columns};
      break;
    default:
      packed = {panels, kh * kw, (c + packed_pairs - 1) / packed_pairs, packed_pairs / 2, packed_columns, 2};
      dtype = DType::bf16;
      value = [&dice] { return static_cast<double>(dice.integer(-3, 3)); };  // no rounding
  }
  Problem p;
  p.in.push_back(input(w, dice, value));
  p.out.push_back({packed, dtype, Order::contiguous, {}});
  p.set_params(ConvParams{.groups = form == 1 ? o : 1});
  p.exact = form != 2;
  p.text = "w" + to_string(w) + " to " + to_string(packed);
  return p;
}

}  // namespace

const std::vector<Row>& device_conformance_rows() {
  static const std::vector<Row> rows = {
#define MIEN_ROW(name) {#name, {&ref::name##_entry, &KernelTable::name}, make_##name},
      MIEN_ROW(where) MIEN_ROW(fill) MIEN_ROW(random) MIEN_ROW(pad) MIEN_ROW(slice_backward) MIEN_ROW(index_select) MIEN_ROW(index_add) MIEN_ROW(pick) MIEN_ROW(pick_add)
      MIEN_ROW(arg_reduce) MIEN_ROW(nll) MIEN_ROW(nll_backward) MIEN_ROW(topk_mask) MIEN_ROW(adagrad) MIEN_ROW(center_update) MIEN_ROW(adaptive_avg_pool2d_backward)
      MIEN_ROW(resize_bilinear) MIEN_ROW(resize_bilinear_backward) MIEN_ROW(pack_conv_weights)
#undef MIEN_ROW
  };
  return rows;
}

}  // namespace mien::test

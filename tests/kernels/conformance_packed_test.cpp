// Problems of packed_conv2d: every tail of rows and columns, slices of wider maps, several outputs, residual and activations, stems in planes;
// and of its form for Winograd.
#include "kernels/conformance.h"
#include "mien/kernels/winograd.h"

namespace mien::test {
namespace {

std::int64_t out_size(std::int64_t in, std::int64_t pads, std::int64_t dilation, std::int64_t kernel, std::int64_t stride) {
  return (in + pads - dilation * (kernel - 1) - 1) / stride + 1;
}

}  // namespace

Problem make_packed_conv2d(Dice& dice, int number) {
  const bool whole = number % 3 == 0, big = number % 31 == 30, depthwise = dice.chance(.25), empty = number % 29 == 28;
  const auto value = [&] { return whole ? static_cast<double>(dice.integer(-3, 3)) : dice.uniform(-1, 1); };
  PackedConvParams q;
  std::int64_t channels = dice.one_of<std::int64_t>({dice.integer(1, 5), dice.integer(6, 20), 16, 32, 40});
  if (depthwise) {
    channels = dice.one_of<std::int64_t>({dice.integer(2, 20), 64, dice.integer(60, 90)});
    q.groups = channels;
  } else {
    q.outputs = dice.one_of<int>({1, 1, 2, 3});
  }
  // 1 to 17 columns in turn walk through all tails of rows; 3 and 6 have a walk of their own.
  std::int64_t h = big ? 12 : dice.integer(1, 9), w = big ? 20 + number % 40 : dice.chance(.2) ? 3 : 1 + number % 17;
  if (dice.chance(.1)) h = w = 1;
  const bool pointwise = !depthwise && dice.chance(.35), whole_map = dice.chance(.1) && h * w <= 49;
  q.kernel = pointwise ? Pair{1, 1} : whole_map ? Pair{h, w} : Pair{dice.integer(1, 4), dice.integer(1, big ? 7 : 4)};
  for (std::size_t i = 0; i < 2; ++i) {
    if (whole_map) break;
    q.stride[i] = dice.one_of<std::int64_t>({1, 1, 2, 3});
    q.dilation[i] = dice.one_of<std::int64_t>({1, 1, 1, 2});
    for (std::size_t side = 0; side < 2; ++side) q.padding[2 * i + side] = dice.chance(pointwise ? .9 : .5) ? 0 : dice.integer(0, 3);
  }
  h = std::max({std::int64_t{1}, h, q.dilation[0] * (q.kernel[0] - 1) + 1 - q.padding[0] - q.padding[1]});
  w = std::max({std::int64_t{1}, w, q.dilation[1] * (q.kernel[1] - 1) + 1 - q.padding[2] - q.padding[3]});
  const std::int64_t n = empty ? 0 : big ? dice.one_of<std::int64_t>({2, 17}) : dice.integer(1, 3);
  const std::int64_t oh = out_size(h, q.padding[0] + q.padding[1], q.dilation[0], q.kernel[0], q.stride[0]),
                     ow = out_size(w, q.padding[2] + q.padding[3], q.dilation[1], q.kernel[1], q.stride[1]), taps = q.kernel[0] * q.kernel[1];
  q.activation = dice.one_of({Activation::none, Activation::relu, Activation::prelu});
  q.residual = q.outputs == 1 && dice.chance(.4);

  Problem p;
  p.exact = whole;
  const auto add = [&](const Shape& shape, Order order) {
    Operand x(shape, DType::f32, order, dice);
    for (const auto o : x.offsets()) x.set(o, value());
    p.in.push_back(std::move(x));
  };
  const auto map_order = [&] { return dice.one_of({Order::channels_last, Order::channel_slice}); };
  std::int64_t all = 0, panels = 0;
  for (int i = 0; i < q.outputs; ++i) {
    const std::int64_t o = depthwise ? channels : dice.one_of<std::int64_t>({dice.integer(1, 20), 16, 32, dice.integer(17, 50), 80});
    q.channels[static_cast<std::size_t>(i)] = o;
    all += o;
    panels += (o + packed_columns - 1) / packed_columns;
    p.out.push_back({{n, o, oh, ow}, DType::f32, map_order(), {}});
  }
  add({n, channels, h, w}, dice.chance(channels <= 4 ? .4 : .1) ? Order::contiguous : map_order());
  if (depthwise) {
    add({taps, channels}, Order::contiguous);
  } else {
    add({panels, taps * channels, packed_columns}, Order::contiguous);
    const Operand& packed = p.in.back();  // zeros past each output's channels
    std::int64_t end = 0;
    for (int i = 0; i < q.outputs; ++i) {
      const std::int64_t o = q.channels[static_cast<std::size_t>(i)];
      end += (o + packed_columns - 1) / packed_columns;
      for (std::int64_t k = 0; k < taps * channels; ++k)
        for (std::int64_t column = o % packed_columns; column != 0 && column < packed_columns; ++column)
          packed.view().ptr<float>()[((end - 1) * taps * channels + k) * packed_columns + column] = 0;
    }
  }
  add({all}, Order::contiguous);
  if (q.activation == Activation::prelu) add({all}, Order::contiguous);
  if (q.residual) add({n, all, oh, ow}, map_order());
  p.set_params(q);
  PackedConvParams sizes = q;  // the sum of |terms|
  if (q.activation == Activation::relu) sizes.activation = Activation::none;
  p.set_magnitude_params(sizes);
  p.magnitudes.assign(p.in.size(), true);
  const auto pair = [](const Pair& v) { return to_string(Shape{v[0], v[1]}); };
  p.text = "x" + to_string(Shape{n, channels, h, w}) + " kernel " + pair(q.kernel) + " stride " + pair(q.stride) + " dilation " + pair(q.dilation) + " padding " +
           to_string(Shape{q.padding[0], q.padding[1], q.padding[2], q.padding[3]}) + " outputs " + std::to_string(q.outputs) + (depthwise ? " depthwise" : "") +
           " activation " + std::to_string(static_cast<int>(q.activation)) + (q.residual ? " residual" : "");
  return p;
}

// Weights in the form for Winograd, any values: ref computes the same patches in f64. Maps from one pixel on, some so large that they are cut into blocks.
Problem make_packed_winograd(Dice& dice, int number) {
  const bool big = number % 31 == 30, empty = number % 29 == 28;
  PackedConvParams q;
  q.kernel = {3, 3};
  q.outputs = dice.one_of<int>({1, 1, 2, 3});
  q.activation = dice.one_of({Activation::none, Activation::relu, Activation::prelu});
  q.residual = q.outputs == 1 && dice.chance(.4);
  for (auto& side : q.padding) side = dice.one_of<std::int64_t>({0, 1, 1, dice.integer(2, 5)});
  const std::int64_t channels = big ? 16 : dice.one_of<std::int64_t>({16, 16, 32, 48, dice.integer(1, 20)}), n = empty ? 0 : big ? 9 : dice.integer(1, 3);
  const std::int64_t h = std::max<std::int64_t>(3, big ? 17 : dice.integer(1, 9)), w = std::max<std::int64_t>(3, big ? dice.integer(20, 40) : dice.integer(1, 12));
  const std::int64_t oh = out_size(h, q.padding[0] + q.padding[1], 1, 3, 1), ow = out_size(w, q.padding[2] + q.padding[3], 1, 3, 1);

  Problem p;
  const auto add = [&](const Shape& shape, Order order) {
    Operand x(shape, DType::f32, order, dice);
    for (const auto o : x.offsets()) x.set(o, dice.uniform(-1, 1));
    p.in.push_back(std::move(x));
  };
  const auto map_order = [&] { return dice.one_of({Order::channels_last, Order::channel_slice}); };
  std::int64_t all = 0, panels = 0;
  for (int i = 0; i < q.outputs; ++i) {
    const std::int64_t o = dice.one_of<std::int64_t>({dice.integer(1, 20), 16, 32, dice.integer(17, 40)});
    q.channels[static_cast<std::size_t>(i)] = o;
    all += o;
    panels += (o + packed_columns - 1) / packed_columns;
    p.out.push_back({{n, o, oh, ow}, DType::f32, map_order(), {}});
  }
  add({n, channels, h, w}, dice.chance(.1) ? Order::contiguous : map_order());
  add({panels, winograd::products, channels, packed_columns}, Order::contiguous);
  add({all}, Order::contiguous);
  if (q.activation == Activation::prelu) add({all}, Order::contiguous);
  if (q.residual) add({n, all, oh, ow}, map_order());
  // Sums of the size of one, as errors are measured: an output adds some 150 products a channel, weighed by the transforms.
  for (const auto o : p.in[1].offsets()) p.in[1].set(o, p.in[1].get(o) / (10 * std::sqrt(static_cast<double>(channels))));
  p.set_params(q);
  p.text = "x" + to_string(Shape{n, channels, h, w}) + " padding " + to_string(Shape{q.padding[0], q.padding[1], q.padding[2], q.padding[3]}) + " outputs " +
           std::to_string(q.outputs) + " activation " + std::to_string(static_cast<int>(q.activation)) + (q.residual ? " residual" : "");
  return p;
}

}  // namespace mien::test

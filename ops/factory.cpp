#include "mien/ops/factory.h"

#include <algorithm>
#include <vector>

#include "mien/autograd/autograd.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/copy.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

struct RandomSpec : RandomParams {
  Shape shape;
  DType dtype = DType::f32;
  Layout layout = Layout::contiguous;
  Device device = {};
};
void infer(Inputs, const void* params, Outputs& out) {
  const auto& p = *static_cast<const RandomSpec*>(params);
  out.push_back({p.shape, p.dtype, p.layout, p.device});
}

Tensor random(RandomKind kind, const Shape& shape, double a, double b, const FactoryOptions& o) {
  Generator& g = o.generator ? *o.generator : default_generator();
  RandomSpec p;
  p.kind = kind;
  p.seed = g.seed();
  p.stream = g.next_stream();
  p.a = a;
  p.b = b;
  p.shape = shape;
  p.dtype = o.dtype;
  p.layout = o.layout;
  p.device = o.device;
  return apply(op_random, Inputs(), p);
}

}  // namespace

constinit const Op op_random{.name = "random", .infer = infer, .kernels = {&ref::random_entry, &KernelTable::random}};

Tensor full(const Shape& shape, double value, FactoryOptions o) {
  Tensor t = Tensor::empty(shape, o.dtype, o.layout, o.device);
  fill(t, value);
  return t;
}
Tensor zeros(const Shape& shape, FactoryOptions o) { return full(shape, 0, o); }
Tensor ones(const Shape& shape, FactoryOptions o) { return full(shape, 1, o); }
Tensor arange(std::int64_t n, FactoryOptions o) {
  if (n < 0) throw ValueError("arange", "expects n >= 0, got " + std::to_string(n));
  std::vector<std::int64_t> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int64_t>(i);
  return to(cast(Tensor::from(values, {n}), o.dtype), o.device);
}
Tensor rand(const Shape& shape, FactoryOptions o) { return random(RandomKind::uniform, shape, 0, 1, o); }
Tensor uniform(const Shape& shape, double low, double high, FactoryOptions o) {
  if (!(low <= high)) throw ValueError("uniform", "expects low <= high, got " + std::to_string(low) + " and " + std::to_string(high));
  return random(RandomKind::uniform, shape, low, high, o);
}
Tensor randn(const Shape& shape, FactoryOptions o) { return random(RandomKind::normal, shape, 0, 1, o); }
Tensor normal(const Shape& shape, double mean, double std, FactoryOptions o) {
  if (!(std >= 0)) throw ValueError("normal", "expects std >= 0, got " + std::to_string(std));
  return random(RandomKind::normal, shape, mean, std, o);
}
Tensor randint(std::int64_t low, std::int64_t high, const Shape& shape, FactoryOptions o) {
  constexpr std::int64_t exact = std::int64_t{1} << 53;  // the kernel's bounds are doubles
  if (low >= high) throw ValueError("randint", "expects low < high, got " + std::to_string(low) + " and " + std::to_string(high));
  if (low < -exact || high > exact) throw ValueError("randint", "expects bounds within 2^53, got " + std::to_string(low) + " and " + std::to_string(high));
  const DType wanted = o.dtype;
  o.dtype = DType::i64;
  return cast(random(RandomKind::integer, shape, static_cast<double>(low), static_cast<double>(high), o), wanted);
}
Tensor dropout_mask(const Shape& shape, double p, FactoryOptions o) {
  if (!(p >= 0 && p < 1)) throw ValueError("dropout_mask", "expects a probability in [0, 1), got " + std::to_string(p));
  return random(RandomKind::dropout_mask, shape, p, 1, o);
}
Tensor zeros_like(const Tensor& x) { return full(x.shape(), 0, {.dtype = x.dtype(), .layout = layout_like(x), .device = x.device()}); }
Tensor ones_like(const Tensor& x) { return full(x.shape(), 1, {.dtype = x.dtype(), .layout = layout_like(x), .device = x.device()}); }

}  // namespace mien

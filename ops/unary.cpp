#include "mien/ops/unary.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/binary.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

const char* member(const void* params) {
  static constexpr const char* names[] = {
#define MIEN_NAME(name, f, df, lo, hi, kink) #name,
      MIEN_UNARY(MIEN_NAME)
#undef MIEN_NAME
  };
  return names[static_cast<int>(static_cast<const UnaryParams*>(params)->kind)];
}

void infer(Inputs in, const void* params, Outputs& out) {
  check_floating(member(params), in[0]);
  out.push_back(spec_like(in[0]));
}

// What the derivative's formula in unary_table.h reads: x, y, both or nothing. The rest is not kept: it may be freed or overwritten.
Saves saves(const void* params) {
  constexpr Saves nothing{}, x{bit(0), 0}, y{0, bit(0)}, both{bit(0), bit(0)};
  const auto& p = *static_cast<const UnaryParams*>(params);
  switch (p.kind) {
    case UnaryKind::neg:
    case UnaryKind::affine:
    case UnaryKind::sign: return nothing;
    case UnaryKind::exp:
    case UnaryKind::sqrt:
    case UnaryKind::reciprocal:
    case UnaryKind::tanh:
    case UnaryKind::sigmoid:
    case UnaryKind::relu: return y;                          // x > 0 where y > 0
    case UnaryKind::leaky_relu: return p.a > 0 ? y : x;      // so it is here, for slopes that keep the sign
    case UnaryKind::rsqrt:
    case UnaryKind::silu: return both;
    default: return x;
  }
}

// The kernel takes x and y. In the place of one that was not saved stands the other (for relu that is right, elsewhere it is not read).
void vjp(const Vjp& v) {
  const Tensor& g = v.grads[0];
  if (!g.defined()) return;
  const Tensor &x = v.inputs[0], &y = v.outputs[0];
  const Tensor stand_in = (x.defined() ? x : y.defined() ? y : g).detach();
  v.result[0] = apply(op_unary_backward, {g, x.defined() ? x : stand_in, y.defined() ? y : stand_in}, v.get<UnaryParams>());
}

void infer_backward(Inputs in, const void* params, Outputs& out) {
  check_same_shape(member(params), in[0], in[1]);
  check_same_shape(member(params), in[1], in[2]);
  check_same_dtype(member(params), in);
  out.push_back(spec_like(in[1]));
}

// Partial derivatives of f'(x, y) as unary_table.h writes it, x and y taken as independent: y's own dependence on x is the graph's
// business. Undefined where there is none.
struct Partials {
  Tensor by_x, by_y;
};
Partials partials(const UnaryParams& p, const Tensor& x, const Tensor& y) {
  switch (p.kind) {
    case UnaryKind::exp: return {{}, ones_like(y)};
    case UnaryKind::log: return {neg(reciprocal(square(x))), {}};
    case UnaryKind::sqrt: return {{}, affine(reciprocal(square(y)), -.5, 0)};
    case UnaryKind::rsqrt: return {affine(div(y, square(x)), .5, 0), affine(reciprocal(x), -.5, 0)};
    case UnaryKind::reciprocal: return {{}, affine(y, -2, 0)};
    case UnaryKind::square: return {affine(x, 0, 2), {}};
    case UnaryKind::sin: return {neg(sin(x)), {}};
    case UnaryKind::cos: return {neg(cos(x)), {}};
    case UnaryKind::acos: return {neg(mul(x, pow(affine(square(x), -1, 1), -1.5))), {}};
    case UnaryKind::tanh: return {{}, affine(y, -2, 0)};
    case UnaryKind::sigmoid: return {{}, affine(y, -2, 1)};
    case UnaryKind::softplus: {  // as in the table, straight above 20
      const Tensor s = sigmoid(x), bent = cast(less_equal(x, full({}, 20, {.dtype = x.dtype(), .device = x.device()})), x.dtype());
      return {mul(bent, mul(s, affine(s, -1, 1))), {}};
    }
    case UnaryKind::silu: {
      const Tensor s = sigmoid(x), rest = affine(s, -1, 1);
      return {mul(affine(y, -1, 1), mul(s, rest)), rest};
    }
    case UnaryKind::pow:
      if (p.a == 0 || p.a == 1) return {};  // not 0 * infinity at x = 0
      return {affine(pow(x, p.a - 2), p.a * (p.a - 1), 0), {}};
    default: return {};  // neg abs relu leaky_relu clamp affine sign: f' is constant almost everywhere
  }
}

void vjp_backward(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const auto& p = v.get<UnaryParams>();
  const Tensor &gg = v.grads[0], &g = v.inputs[0], &x = v.inputs[1], &y = v.inputs[2];
  if (v.needs[0]) v.result[0] = apply(op_unary_backward, {gg, x, y}, p);
  if (!v.needs[1] && !v.needs[2]) return;
  const Partials f = partials(p, x, y);
  if (v.needs[1] && f.by_x.defined()) v.result[1] = mul(mul(gg, g), f.by_x);
  if (v.needs[2] && f.by_y.defined()) v.result[2] = mul(mul(gg, g), f.by_y);
}

}  // namespace

constinit const Op op_unary{.name = "unary", .infer = infer, .vjp = vjp, .save_inputs = bit(0), .save_outputs = bit(0),
                            .kernels = {&ref::unary_entry, &KernelTable::unary}, .fusion = Fusion::elementwise, .member = member, .saves = saves};
constinit const Op op_unary_backward{.name = "unary_backward", .infer = infer_backward, .vjp = vjp_backward, .save_inputs = bit(0) | bit(1) | bit(2),
                                     .kernels = {&ref::unary_backward_entry, &KernelTable::unary_backward}, .fusion = Fusion::elementwise, .member = member};

#define MIEN_SIMPLE(name) \
  Tensor name(const Tensor& x) { return apply(op_unary, {x}, UnaryParams{UnaryKind::name}); }
MIEN_SIMPLE(neg)
MIEN_SIMPLE(exp)
MIEN_SIMPLE(log)
MIEN_SIMPLE(sqrt)
MIEN_SIMPLE(rsqrt)
MIEN_SIMPLE(reciprocal)
MIEN_SIMPLE(abs)
MIEN_SIMPLE(square)
MIEN_SIMPLE(sin)
MIEN_SIMPLE(cos)
MIEN_SIMPLE(acos)
MIEN_SIMPLE(tanh)
MIEN_SIMPLE(sigmoid)
MIEN_SIMPLE(relu)
MIEN_SIMPLE(softplus)
MIEN_SIMPLE(silu)
MIEN_SIMPLE(sign)
#undef MIEN_SIMPLE

Tensor leaky_relu(const Tensor& x, double slope) { return apply(op_unary, {x}, UnaryParams{UnaryKind::leaky_relu, slope}); }
Tensor affine(const Tensor& x, double scale, double shift) { return apply(op_unary, {x}, UnaryParams{UnaryKind::affine, scale, shift}); }
Tensor pow(const Tensor& x, double exponent) { return apply(op_unary, {x}, UnaryParams{UnaryKind::pow, exponent}); }
Tensor clamp(const Tensor& x, double low, double high) {
  if (low > high) throw ValueError("clamp", "expects low <= high, got " + std::to_string(low) + " and " + std::to_string(high));
  return apply(op_unary, {x}, UnaryParams{UnaryKind::clamp, low, high});
}

}  // namespace mien

#include "mien/ops/unary.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/kernels/unary_table.h"
#include "mien/ops/binary.h"
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

void vjp(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_unary_backward, {v.grads[0], v.inputs[0], v.outputs[0]}, v.get<UnaryParams>());
}

void infer_backward(Inputs in, const void* params, Outputs& out) {
  check_same_shape(member(params), in[0], in[1]);
  check_same_dtype(member(params), in);
  out.push_back(spec_like(in[1]));
}

// d/dg (g f'(x)) = f'(x). For the second derivative the piecewise linear members have none, the others need f''.
void vjp_backward(const Vjp& v) {
  if (!v.grads[0].defined()) return;
  const auto& p = v.get<UnaryParams>();
  const Tensor &gg = v.grads[0], &g = v.inputs[0], &x = v.inputs[1], &y = v.inputs[2];
  if (v.needs[0]) v.result[0] = apply(op_unary_backward, {gg, x, y}, p);
  if (!v.needs[1]) return;
  Tensor second;
  switch (p.kind) {
    case UnaryKind::exp: second = y; break;
    case UnaryKind::log: second = neg(reciprocal(square(x))); break;
    case UnaryKind::sqrt: second = affine(pow(x, -1.5), -.25, 0); break;
    case UnaryKind::rsqrt: second = affine(pow(x, -2.5), .75, 0); break;
    case UnaryKind::reciprocal: second = affine(mul(square(y), y), 2, 0); break;
    case UnaryKind::square: second = affine(x, 0, 2); break;
    case UnaryKind::sin: second = neg(y); break;
    case UnaryKind::cos: second = neg(y); break;
    case UnaryKind::tanh: second = affine(mul(y, affine(square(y), -1, 1)), -2, 0); break;
    case UnaryKind::sigmoid: second = mul(mul(y, affine(y, -1, 1)), affine(y, -2, 1)); break;
    case UnaryKind::softplus: {
      const Tensor s = sigmoid(x);
      second = mul(s, affine(s, -1, 1));
      break;
    }
    case UnaryKind::silu: {
      const Tensor s = sigmoid(x), ds = mul(s, affine(s, -1, 1));
      second = mul(ds, affine(mul(x, affine(s, -2, 1)), 1, 2));
      break;
    }
    case UnaryKind::pow: second = affine(pow(x, p.a - 2), p.a * (p.a - 1), 0); break;
    default: return;  // neg abs relu leaky_relu clamp affine sign: zero almost everywhere
  }
  v.result[1] = mul(mul(gg, g), second);
}

}  // namespace

constinit const Op op_unary{.name = "unary", .infer = infer, .vjp = vjp, .save_inputs = bit(0), .save_outputs = bit(0),
                            .kernels = {&ref::unary_entry, &CpuTable::unary}, .fusion = Fusion::elementwise, .member = member};
constinit const Op op_unary_backward{.name = "unary_backward", .infer = infer_backward, .vjp = vjp_backward, .save_inputs = bit(0) | bit(1) | bit(2),
                                     .kernels = {&ref::unary_backward_entry, &CpuTable::unary_backward}, .fusion = Fusion::elementwise, .member = member};

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

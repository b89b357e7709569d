#include "mien/layers/layers.h"

#include <cmath>

#include "mien/layers/init.h"
#include "mien/ops/conv.h"
#include "mien/ops/factory.h"
#include "mien/ops/matmul.h"
#include "mien/ops/norm.h"
#include "mien/ops/prelu.h"

namespace mien {
namespace {

void start(Tensor& weight, Tensor& bias, std::int64_t outputs, bool with_bias) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(std::max<std::int64_t>(init::fans(weight).first, 1)));
  init::uniform(weight, -bound, bound);
  if (with_bias) {
    bias = Tensor::empty({outputs});
    init::uniform(bias, -bound, bound);
  }
}

std::string arrow(std::int64_t in, std::int64_t out) { return std::to_string(in) + " -> " + std::to_string(out); }
std::string times(const Pair& p) { return std::to_string(p[0]) + "x" + std::to_string(p[1]); }

}  // namespace

Conv2d::Conv2d(const ConvOptions& o) : options(o) {
  if (o.in < 1 || o.out < 1 || o.groups < 1 || o.in % o.groups || o.out % o.groups || o.kernel[0] < 1 || o.kernel[1] < 1)
    throw ValueError("Conv2d", "expects in, out, kernel >= 1 and groups that divide both, got in " + std::to_string(o.in) + ", out " + std::to_string(o.out) +
                                   ", kernel " + times(o.kernel) + ", groups " + std::to_string(o.groups));
  weight = Tensor::empty({o.out, o.in / o.groups, o.kernel[0], o.kernel[1]});
  start(weight, bias, o.out, o.bias);
}
Tensor Conv2d::operator()(const Tensor& x) const {
  return conv2d(x, weight, bias, params());
}
ConvParams Conv2d::params() const { return {.stride = options.stride, .padding = options.padding, .dilation = options.dilation, .groups = options.groups}; }
void Conv2d::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}
std::string Conv2d::label() const {
  return "Conv2d(" + arrow(options.in, options.out) + ", " + times(options.kernel) + (options.stride == Pair{1, 1} ? "" : ", stride " + times(options.stride)) +
         (options.groups == 1 ? "" : ", groups " + std::to_string(options.groups)) + ")";
}

ConvTranspose2d::ConvTranspose2d(const ConvTransposeLayerOptions& o) : options(o) {
  if (o.in < 1 || o.out < 1 || o.groups < 1 || o.in % o.groups || o.out % o.groups)
    throw ValueError("ConvTranspose2d", "expects in, out >= 1 and groups that divide both, got in " + std::to_string(o.in) + ", out " + std::to_string(o.out) +
                                            ", groups " + std::to_string(o.groups));
  weight = Tensor::empty({o.in, o.out / o.groups, o.kernel[0], o.kernel[1]});
  start(weight, bias, o.out, o.bias);
}
Tensor ConvTranspose2d::operator()(const Tensor& x) const {
  return conv_transpose2d(x, weight, bias,
                          {.stride = options.stride, .padding = options.padding, .output_padding = options.output_padding, .dilation = options.dilation, .groups = options.groups});
}
void ConvTranspose2d::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}
std::string ConvTranspose2d::label() const { return "ConvTranspose2d(" + arrow(options.in, options.out) + ", " + times(options.kernel) + ")"; }

Linear::Linear(const LinearOptions& o) : options(o) {
  if (o.in < 1 || o.out < 1) throw ValueError("Linear", "expects in, out >= 1, got " + arrow(o.in, o.out));
  weight = Tensor::empty({o.out, o.in});
  start(weight, bias, o.out, o.bias);
}
Tensor Linear::operator()(const Tensor& x) const { return linear(x, weight, bias); }
void Linear::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}
std::string Linear::label() const { return "Linear(" + arrow(options.in, options.out) + ")"; }

PReLU::PReLU(std::int64_t channels, double start_value) : weight(full({channels}, start_value)) {}
Tensor PReLU::operator()(const Tensor& x) const { return prelu(x, weight); }
void PReLU::visit(Visitor& v) { v("weight", weight); }
std::string PReLU::label() const { return "PReLU(" + std::to_string(weight.size(0)) + ")"; }

BatchNorm2d::BatchNorm2d(const NormOptions& o)
    : options(o), weight(ones({o.channels})), bias(zeros({o.channels})), running_mean(zeros({o.channels})), running_var(ones({o.channels})) {}
Tensor BatchNorm2d::operator()(const Tensor& x) {
  return batch_norm(x, weight, bias, running_mean, running_var, {.training = training(), .eps = options.eps, .momentum = options.momentum});
}
Tensor BatchNorm2d::with_relu(const Tensor& x) {
  return batch_norm(x, weight, bias, running_mean, running_var, {.training = training(), .eps = options.eps, .momentum = options.momentum, .activation = Activation::relu});
}
Tensor BatchNorm2d::with_prelu(const Tensor& x, const PReLU& prelu) {
  return batch_norm(x, weight, bias, running_mean, running_var,
                    {.training = training(), .eps = options.eps, .momentum = options.momentum, .activation = Activation::prelu}, prelu.weight);
}
MomentMap BatchNorm2d::then(const MomentMap& x, const PReLU* prelu, const Conv2d& conv) {
  if (conv.bias.defined()) throw ValueError("BatchNorm2d", "the convolution of then() has no bias: the next batch norm would take it away");
  update_running_moments(running_mean, running_var, x, options.eps, options.momentum);
  return norm_conv(x, {weight, bias, prelu ? prelu->weight : Tensor(), prelu ? Activation::prelu : Activation::none}, conv.weight, conv.params());
}
Tensor BatchNorm2d::then_add(const MomentMap& x, const Tensor& added) {
  update_running_moments(running_mean, running_var, x, options.eps, options.momentum);
  return norm_add(x, weight, bias, added);
}
void BatchNorm2d::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
  v("running_mean", running_mean, Slot::buffer);
  v("running_var", running_var, Slot::buffer);
}
std::string BatchNorm2d::label() const { return "BatchNorm2d(" + std::to_string(options.channels) + ")"; }

Tensor Dropout::operator()(const Tensor& x) const { return dropout(x, p, training()); }
std::string Dropout::label() const { return "Dropout(" + std::to_string(p) + ")"; }

}  // namespace mien

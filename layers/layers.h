// The layers: options as aggregates, parameters as plain members. Weights start as PyTorch's: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
#pragma once

#include "mien/kernels/params.h"
#include "mien/layers/module.h"
#include "mien/ops/norm_conv.h"

namespace mien {

struct ConvOptions {
  std::int64_t in = 0, out = 0;
  Pair kernel{1, 1}, stride{1, 1};
  Padding4 padding{0, 0, 0, 0};  // top, bottom, left, right
  Pair dilation{1, 1};
  std::int64_t groups = 1;
  bool bias = true;
};
class Conv2d : public Module {
 public:
  explicit Conv2d(const ConvOptions& options);
  Tensor operator()(const Tensor& x) const;
  ConvParams params() const;
  void visit(Visitor& v) override;
  std::string label() const override;
  const ConvOptions options;
  Tensor weight, bias;
};

struct ConvTransposeLayerOptions {
  std::int64_t in = 0, out = 0;
  Pair kernel{1, 1}, stride{1, 1}, padding{0, 0}, output_padding{0, 0}, dilation{1, 1};
  std::int64_t groups = 1;
  bool bias = true;
};
class ConvTranspose2d : public Module {
 public:
  explicit ConvTranspose2d(const ConvTransposeLayerOptions& options);
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor& v) override;
  std::string label() const override;
  const ConvTransposeLayerOptions options;
  Tensor weight, bias;
};

struct LinearOptions {
  std::int64_t in = 0, out = 0;
  bool bias = true;
};
class Linear : public Module {
 public:
  explicit Linear(const LinearOptions& options);
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor& v) override;
  std::string label() const override;
  const LinearOptions options;
  Tensor weight, bias;
};

class PReLU : public Module {
 public:
  explicit PReLU(std::int64_t channels, double start = .25);
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor& v) override;
  std::string label() const override;
  Tensor weight;
};

struct NormOptions {
  std::int64_t channels = 0;
  double eps = 1e-5, momentum = .1;
};
class BatchNorm2d : public Module {  // also for [N, C]
 public:
  explicit BatchNorm2d(const NormOptions& options);
  Tensor operator()(const Tensor& x);  // not const: training updates the running statistics
  Tensor with_relu(const Tensor& x);   // relu of it, in one pass
  Tensor with_prelu(const Tensor& x, const PReLU& prelu);  // so too; a slope for each channel
  // Training only: conv of this norm (and the PReLU, if any) of x, in one op; x's statistics are taken note of here. See ops/norm_conv.h.
  MomentMap then(const MomentMap& x, const PReLU* prelu, const Conv2d& conv);
  Tensor then_add(const MomentMap& x, const Tensor& added);  // so too: this norm of x, plus `added` (may be undefined)
  void visit(Visitor& v) override;
  std::string label() const override;
  const NormOptions options;
  Tensor weight, bias, running_mean, running_var;
};

class Dropout : public Module {
 public:
  explicit Dropout(double probability) : p(probability) {}
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor&) override {}
  std::string label() const override;
  const double p;
};

}  // namespace mien

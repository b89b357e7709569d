#include "mien/layers/init.h"

#include <cmath>

#include "mien/autograd/autograd.h"
#include "mien/ops/copy.h"
#include "mien/ops/factory.h"

namespace mien::init {
namespace {
FactoryOptions like(const Tensor& t, Generator* g) { return {.dtype = t.dtype(), .generator = g, .device = t.device()}; }

thread_local bool skipping = false;
bool skips(Generator* g) {
  if (skipping) (g ? *g : default_generator()).next_stream();
  return skipping;
}
}  // namespace

SkipRandom::SkipRandom() noexcept : before_(skipping) { skipping = true; }
SkipRandom::~SkipRandom() { skipping = before_; }

std::pair<std::int64_t, std::int64_t> fans(const Tensor& t) {
  if (t.rank() < 2) throw ShapeError("init", "fan in and fan out need at least 2 dimensions, got " + describe(t));
  std::int64_t field = 1;
  for (int d = 2; d < t.rank(); ++d) field *= t.size(d);
  return {t.size(1) * field, t.size(0) * field};
}

void constant(const Tensor& t, double value) {
  const NoGrad guard;
  fill(t, value);
}
void uniform(const Tensor& t, double low, double high, Generator* g) {
  if (skips(g)) return;
  const NoGrad guard;
  copy_into(t, mien::uniform(t.shape(), low, high, like(t, g)));
}
void normal(const Tensor& t, double mean, double std, Generator* g) {
  if (skips(g)) return;
  const NoGrad guard;
  copy_into(t, mien::normal(t.shape(), mean, std, like(t, g)));
}
void xavier_uniform(const Tensor& t, double gain, Generator* g) {
  const auto [in, out] = fans(t);
  const double a = gain * std::sqrt(6.0 / static_cast<double>(in + out));
  uniform(t, -a, a, g);
}
void xavier_normal(const Tensor& t, double gain, Generator* g) {
  const auto [in, out] = fans(t);
  normal(t, 0, gain * std::sqrt(2.0 / static_cast<double>(in + out)), g);
}
void kaiming_uniform(const Tensor& t, double slope, Generator* g) {
  const double a = std::sqrt(6.0 / ((1 + slope * slope) * static_cast<double>(fans(t).first)));
  uniform(t, -a, a, g);
}
void kaiming_normal(const Tensor& t, double slope, Generator* g) {
  normal(t, 0, std::sqrt(2.0 / ((1 + slope * slope) * static_cast<double>(fans(t).first))), g);
}

}  // namespace mien::init

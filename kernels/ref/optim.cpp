// One step of an optimizer, in place, with PyTorch's formulas.
//   SGD with momentum: Sutskever et al., 2013. Adam: Kingma and Ba, 2015. Decoupled weight decay (AdamW): Loshchilov and Hutter, 2019.
//   Adagrad: Duchi et al., 2011.
#include <cmath>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

template <class T>
void sgd(const KernelArgs& args) {
  const auto& p = args.get<SgdParams>();
  const View &vg = args.in[0], &vp = args.out[0];
  const bool buffered = p.momentum != 0;  // without momentum the buffer is neither read nor written and may be absent
  internal_check(!buffered || args.out.size() > 1, "sgd: momentum without a buffer");
  const View& vm = buffered ? args.out[1] : vp;
  const T* g = typed<T>(vg);
  T *param = typed<T>(vp), *buffer = typed<T>(vm);
  iterate<3>(vp.shape, {vg.strides, vp.strides, vm.strides}, [&](const Offsets<3>& o) {
    const double value = static_cast<double>(param[o[1]]);
    double d = static_cast<double>(g[o[0]]) + p.weight_decay * value;
    if (buffered) {
      const double m = p.first_step ? d : p.momentum * static_cast<double>(buffer[o[2]]) + (1 - p.dampening) * d;
      buffer[o[2]] = static_cast<T>(m);
      d = p.nesterov ? d + p.momentum * m : m;
    }
    param[o[1]] = static_cast<T>(value - p.lr * d);
  });
}

template <class T>
void adam(const KernelArgs& args) {
  const auto& p = args.get<AdamParams>();
  const View &vg = args.in[0], &vp = args.out[0], &vm = args.out[1], &vv = args.out[2];
  const T* grad = typed<T>(vg);
  T *param = typed<T>(vp), *m = typed<T>(vm), *v = typed<T>(vv);
  const double t = static_cast<double>(p.step), correction1 = 1 - std::pow(p.beta1, t), correction2 = 1 - std::pow(p.beta2, t);
  iterate<4>(vp.shape, {vg.strides, vp.strides, vm.strides, vv.strides}, [&](const Offsets<4>& o) {
    double value = static_cast<double>(param[o[1]]), g = static_cast<double>(grad[o[0]]);
    if (p.decoupled) value *= 1 - p.lr * p.weight_decay;
    else g += p.weight_decay * value;
    const double first = p.beta1 * static_cast<double>(m[o[2]]) + (1 - p.beta1) * g;
    const double second = p.beta2 * static_cast<double>(v[o[3]]) + (1 - p.beta2) * g * g;
    m[o[2]] = static_cast<T>(first);
    v[o[3]] = static_cast<T>(second);
    param[o[1]] = static_cast<T>(value - p.lr / correction1 * first / (std::sqrt(second) / std::sqrt(correction2) + p.eps));
  });
}

template <class T>
void adagrad(const KernelArgs& args) {
  const auto& p = args.get<AdagradParams>();
  const View &vg = args.in[0], &vp = args.out[0], &vs = args.out[1];
  const T* grad = typed<T>(vg);
  T *param = typed<T>(vp), *sum = typed<T>(vs);
  iterate<3>(vp.shape, {vg.strides, vp.strides, vs.strides}, [&](const Offsets<3>& o) {
    const double value = static_cast<double>(param[o[1]]), g = static_cast<double>(grad[o[0]]) + p.weight_decay * value;
    const double total = static_cast<double>(sum[o[2]]) + g * g;
    sum[o[2]] = static_cast<T>(total);
    param[o[1]] = static_cast<T>(value - p.lr * g / (std::sqrt(total) + p.eps));
  });
}

void run_sgd(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "sgd", [&](auto t) { sgd<decltype(t)>(args); });
}
void run_adam(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "adam", [&](auto t) { adam<decltype(t)>(args); });
}
void run_adagrad(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "adagrad", [&](auto t) { adagrad<decltype(t)>(args); });
}

}  // namespace

const KernelEntry sgd_entry = {run_sgd};
const KernelEntry adam_entry = {run_adam};
const KernelEntry adagrad_entry = {run_adagrad};

}  // namespace mien::ref

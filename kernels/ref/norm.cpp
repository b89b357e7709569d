// Batch normalisation with the statistics of the batch (Ioffe and Szegedy, 2015). Channels are dimension 1; the variance is the biased one.
#include <cmath>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

Shape channel_part(const View& x) {
  Shape part = x.shape;
  part[1] = 1;
  return part;
}

template <class T>
void batch_norm(const KernelArgs& args) {
  const double eps = args.get<NormParams>().eps;
  const Activation activation = args.get<NormParams>().activation;
  const View &vx = args.in[0], &vw = args.in[1], &vb = args.in[2], &vy = args.out[0], &vm = args.out[1], &vs = args.out[2];
  const Shape part = channel_part(vx);
  const double count = static_cast<double>(numel(part));
  for (std::int64_t c = 0; c < vx.size(1); ++c) {
    const T* x = typed<T>(vx) + c * vx.stride(1);
    T* y = typed<T>(vy) + c * vy.stride(1);
    double sum = 0, squares = 0;
    iterate<1>(part, {vx.strides}, [&](const Offsets<1>& o) { sum += static_cast<double>(x[o[0]]); });
    const double mean = sum / count;
    iterate<1>(part, {vx.strides}, [&](const Offsets<1>& o) {
      const double d = static_cast<double>(x[o[0]]) - mean;
      squares += d * d;
    });
    const double invstd = 1.0 / std::sqrt(squares / count + eps);
    const double w = static_cast<double>(typed<T>(vw)[c * vw.stride(0)]), b = static_cast<double>(typed<T>(vb)[c * vb.stride(0)]);
    const double slope = activation == Activation::prelu ? static_cast<double>(typed<T>(args.in[3])[c * args.in[3].stride(0)]) : 0;
    iterate<2>(part, {vx.strides, vy.strides}, [&](const Offsets<2>& o) {
      const double v = (static_cast<double>(x[o[0]]) - mean) * invstd * w + b;
      y[o[1]] = static_cast<T>(activation == Activation::none || v > 0 || v != v ? v : slope * v);
    });
    typed<T>(vm)[c * vm.stride(0)] = static_cast<T>(mean);
    typed<T>(vs)[c * vs.stride(0)] = static_cast<T>(invstd);
  }
}

template <class T>
void batch_norm_backward(const KernelArgs& args) {
  const View &vg = args.in[0], &vx = args.in[1], &vw = args.in[2], &vm = args.in[3], &vs = args.in[4];
  const View &vgx = args.out[0], &vgw = args.out[1], &vgb = args.out[2];
  const Shape part = channel_part(vx);
  const double count = static_cast<double>(numel(part));
  const Activation activation = args.get<NormParams>().activation;
  for (std::int64_t c = 0; c < vx.size(1); ++c) {
    const T *g = typed<T>(vg) + c * vg.stride(1), *x = typed<T>(vx) + c * vx.stride(1);
    T* gx = typed<T>(vgx) + c * vgx.stride(1);
    const double w = static_cast<double>(typed<T>(vw)[c * vw.stride(0)]), mean = static_cast<double>(typed<T>(vm)[c * vm.stride(0)]),
                 invstd = static_cast<double>(typed<T>(vs)[c * vs.stride(0)]);
    const double b = activation == Activation::none ? 0 : static_cast<double>(typed<T>(args.in[5])[c * args.in[5].stride(0)]);
    const double slope = activation == Activation::prelu ? static_cast<double>(typed<T>(args.in[6])[c * args.in[6].stride(0)]) : 0;
    const auto normal = [&](std::int64_t at) { return (static_cast<double>(x[at]) - mean) * invstd; };
    const auto low = [&](std::int64_t at) { return activation != Activation::none && normal(at) * w + b <= 0; };
    const auto gradient = [&](std::int64_t at, std::int64_t x_at) { return static_cast<double>(g[at]) * (low(x_at) ? slope : 1); };
    double sum_slope = 0;
    double sum_g = 0, sum_gx = 0;  // of g, of g times the normalised x
    iterate<2>(part, {vg.strides, vx.strides}, [&](const Offsets<2>& o) {
      const double gi = gradient(o[0], o[1]);
      sum_g += gi;
      sum_gx += gi * normal(o[1]);
      if (low(o[1])) sum_slope += static_cast<double>(g[o[0]]) * (normal(o[1]) * w + b);
    });
    iterate<3>(part, {vg.strides, vx.strides, vgx.strides}, [&](const Offsets<3>& o) {
      gx[o[2]] = static_cast<T>(w * invstd * (gradient(o[0], o[1]) - (sum_g + normal(o[1]) * sum_gx) / count));
    });
    typed<T>(vgw)[c * vgw.stride(0)] = static_cast<T>(sum_gx);
    typed<T>(vgb)[c * vgb.stride(0)] = static_cast<T>(sum_g);
    if (activation == Activation::prelu) typed<T>(args.out[3])[c * args.out[3].stride(0)] = static_cast<T>(sum_slope);
  }
}

template <class T>
void channel_affine(const KernelArgs& args) {
  const View &vx = args.in[0], &scale = args.in[1], &shift = args.in[2], &vy = args.out[0];
  for (std::int64_t c = 0; c < vx.size(1); ++c) {
    const T* x = typed<T>(vx) + c * vx.stride(1);
    T* y = typed<T>(vy) + c * vy.stride(1);
    const double a = static_cast<double>(typed<T>(scale)[c * scale.stride(0)]), b = static_cast<double>(typed<T>(shift)[c * shift.stride(0)]);
    iterate<2>(channel_part(vx), {vx.strides, vy.strides}, [&](const Offsets<2>& o) { y[o[1]] = static_cast<T>(static_cast<double>(x[o[0]]) * a + b); });
  }
}

void run_batch_norm(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "batch_norm", [&](auto t) { batch_norm<decltype(t)>(args); });
}
void run_batch_norm_backward(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "batch_norm_backward", [&](auto t) { batch_norm_backward<decltype(t)>(args); });
}

void run_channel_affine(const KernelArgs& args) {
  dispatch_float(args.out[0].dtype, "channel_affine", [&](auto t) { channel_affine<decltype(t)>(args); });
}

}  // namespace

const KernelEntry batch_norm_entry = {run_batch_norm};
const KernelEntry batch_norm_backward_entry = {run_batch_norm_backward};
const KernelEntry channel_affine_entry = {run_channel_affine};

}  // namespace mien::ref

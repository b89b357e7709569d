// Copies between any strides and dtypes, and constants.
#include <cstring>

#include "mien/kernels/ref/iterate_impl.h"
#include "mien/kernels/ref/ref.h"

namespace mien::ref {
namespace {

void run_copy(const KernelArgs& args) {
  const View &vx = args.in[0], &vy = args.out[0];
  const auto walk = [&](auto from, auto to, const auto& value_of) {
    using From = decltype(from);
    using To = decltype(to);
    const From* x = vx.ptr<From>();
    To* y = vy.ptr<To>();
    iterate<2>(vy.shape, {vx.strides, vy.strides}, [&](const Offsets<2>& o) { y[o[1]] = value_of(x[o[0]]); });
  };
  if (vx.dtype == vy.dtype)  // bits as they are, NaN payloads included
    return dispatch_size(vx.dtype, [&](auto t) { walk(t, t, [](auto v) { return v; }); });
  dispatch_all(vx.dtype, [&](auto from) {
    dispatch_all(vy.dtype, [&](auto to) { walk(from, to, [](auto v) { return convert<decltype(to)>(v); }); });
  });
}

void run_transfer(const KernelArgs& args) { std::memcpy(args.out[0].data, args.in[0].data, static_cast<std::size_t>(args.out[0].numel() * item_size(args.out[0].dtype))); }

void run_fill(const KernelArgs& args) {
  const View& vy = args.out[0];
  dispatch_all(vy.dtype, [&](auto t) {
    using T = decltype(t);
    const T value = convert<T>(args.get<FillParams>().value);
    T* y = vy.ptr<T>();
    iterate<1>(vy.shape, {vy.strides}, [&](const Offsets<1>& o) { y[o[0]] = value; });
  });
}

}  // namespace

const KernelEntry copy_entry = {run_copy, nullptr, nullptr, true};
const KernelEntry transfer_entry = {run_transfer, nullptr, nullptr, true};
const KernelEntry fill_entry = {run_fill, nullptr, nullptr, true};

}  // namespace mien::ref

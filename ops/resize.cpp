#include "mien/ops/resize.h"

#include "mien/kernels/cpu/table.h"
#include "mien/kernels/ref/ref.h"
#include "mien/ops/op.h"
#include "mien/ops/table.h"

namespace mien {
namespace {

struct SizeParams : ResizeParams {  // kernels read ResizeParams
  Shape shape;
  Layout layout = Layout::contiguous;  // of a gradient: a small map may lie in both orders, so that it can't say which one its input had
};
SizeParams sized(const Shape& shape, bool align_corners = false) {
  SizeParams p;
  p.align_corners = align_corners;
  p.shape = shape;
  return p;
}
SizeParams sized(const OutputSpec& input, bool align_corners = false) {
  SizeParams p = sized(input.shape, align_corners);
  p.layout = input.layout;
  return p;
}

void infer_area(Inputs in, const void* params, Outputs& out) {
  check_rank("adaptive_avg_pool2d", "the input", in[0], 4);
  if (in[0].dtype() != DType::u8) check_floating("adaptive_avg_pool2d", in[0]);
  if (in[0].size(2) < 1 || in[0].size(3) < 1) throw ShapeError("adaptive_avg_pool2d", "the input has no pixels: " + describe(in[0]));
  out.push_back({static_cast<const SizeParams*>(params)->shape, in[0].dtype() == DType::u8 ? DType::f32 : in[0].dtype(),
                 in[0].dtype() == DType::u8 ? Layout::contiguous : layout_like(in[0])});
}
void infer_bilinear(Inputs in, const void* params, Outputs& out) {
  check_rank("resize_bilinear", "the input", in[0], 4);
  check_floating("resize_bilinear", in[0]);
  if (in[0].size(2) < 1 || in[0].size(3) < 1) throw ShapeError("resize_bilinear", "the input has no pixels: " + describe(in[0]));
  out.push_back({static_cast<const SizeParams*>(params)->shape, in[0].dtype(), layout_like(in[0])});
}
void infer_backward(Inputs in, const void* params, Outputs& out) {
  const auto& p = *static_cast<const SizeParams*>(params);
  out.push_back({p.shape, in[0].dtype(), p.layout});
}

void vjp_area(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_adaptive_avg_pool2d_backward, {v.grads[0]}, sized(v.input_specs[0]));
}
void vjp_area_backward(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_adaptive_avg_pool2d, {v.grads[0]}, sized(v.input_specs[0].shape));
}
void vjp_bilinear(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_resize_bilinear_backward, {v.grads[0]}, sized(v.input_specs[0], v.get<SizeParams>().align_corners));
}
void vjp_bilinear_backward(const Vjp& v) {
  if (v.grads[0].defined()) v.result[0] = apply(op_resize_bilinear, {v.grads[0]}, sized(v.input_specs[0].shape, v.get<SizeParams>().align_corners));
}

// The batch, and the channels, are the input's; the size was asked for.
void follow(void* params, const Shape& then, const Shape& now) {
  Shape& to = static_cast<SizeParams*>(params)->shape;
  for (int d = 0; d < 2; ++d)
    if (to[d] == then[d]) to[d] = now[d];
}

struct CropParams : CropResizeParams {
  Pair size{};
};
CropParams crop_params(Pair size, float mean, float scale) {
  CropParams p;
  p.mean = mean;
  p.scale = scale;
  p.size = size;
  return p;
}
void infer_crop(Inputs in, const void* params, Outputs& out) {
  const Tensor &image = in[0], &boxes = in[1];
  check_rank("crop_resize_area", "the picture", image, 3);
  check_rank("crop_resize_area", "boxes", boxes, 2);
  if (image.dtype() != DType::u8 && image.dtype() != DType::f32) throw DTypeError("crop_resize_area", "the picture must be u8 or f32, got " + describe(image));
  if (boxes.dtype() != DType::i64 || boxes.size(1) != 4) throw ShapeError("crop_resize_area", "boxes must be i64[K, 4], got " + describe(boxes));
  // On a GPU nobody waits for the values: a box that leaves the picture is cut to it there.
  for (std::int64_t k = 0; boxes.device().is_cpu() && k < boxes.size(0); ++k) {
    const auto at = [&](std::int64_t c) { return boxes.data<std::int64_t>()[k * boxes.strides()[0] + c * boxes.strides()[1]]; };
    if (at(0) < 0 || at(1) < 0 || at(2) > image.size(2) || at(3) > image.size(1) || at(0) >= at(2) || at(1) >= at(3))
      throw ShapeError("crop_resize_area", "box " + std::to_string(k) + " [" + std::to_string(at(0)) + ", " + std::to_string(at(1)) + ", " + std::to_string(at(2)) + ", " +
                                               std::to_string(at(3)) + ") is empty or leaves the picture " + describe(image));
  }
  const Pair size = static_cast<const CropParams*>(params)->size;
  out.push_back({{boxes.size(0), image.size(0), size[0], size[1]}, DType::f32, Layout::contiguous});
}

void infer_warp(Inputs in, const void* params, Outputs& out) {
  const Tensor &image = in[0], &matrices = in[1];
  check_rank("warp_affine", "the picture", image, 3);
  if (image.dtype() != DType::u8 && image.dtype() != DType::f32) throw DTypeError("warp_affine", "the picture must be u8 or f32, got " + describe(image));
  if (matrices.dtype() != DType::f64 || matrices.rank() != 3 || matrices.size(1) != 2 || matrices.size(2) != 3)
    throw ShapeError("warp_affine", "matrices must be f64[K, 2, 3], got " + describe(matrices));
  const Pair size = static_cast<const CropParams*>(params)->size;
  out.push_back({{matrices.size(0), image.size(0), size[0], size[1]}, DType::f32, Layout::contiguous});
}

void check_size(const char* op, Pair size) {
  if (size[0] < 1 || size[1] < 1) throw ValueError(op, "the output size must be at least 1x1, got " + std::to_string(size[0]) + "x" + std::to_string(size[1]));
}

}  // namespace

constinit const Op op_adaptive_avg_pool2d{.name = "adaptive_avg_pool2d", .infer = infer_area, .vjp = vjp_area,
                                          .kernels = {&ref::adaptive_avg_pool2d_entry, &KernelTable::adaptive_avg_pool2d}, .follow = follow};
constinit const Op op_adaptive_avg_pool2d_backward{.name = "adaptive_avg_pool2d_backward", .infer = infer_backward, .vjp = vjp_area_backward,
                                                   .kernels = {&ref::adaptive_avg_pool2d_backward_entry, &KernelTable::adaptive_avg_pool2d_backward}};
constinit const Op op_resize_bilinear{.name = "resize_bilinear", .infer = infer_bilinear, .vjp = vjp_bilinear, .kernels = {&ref::resize_bilinear_entry, &KernelTable::resize_bilinear},
                                      .follow = follow};
constinit const Op op_resize_bilinear_backward{.name = "resize_bilinear_backward", .infer = infer_backward, .vjp = vjp_bilinear_backward,
                                               .kernels = {&ref::resize_bilinear_backward_entry, &KernelTable::resize_bilinear_backward}};
constinit const Op op_crop_resize_area{.name = "crop_resize_area", .infer = infer_crop, .kernels = {&ref::crop_resize_area_entry, &KernelTable::crop_resize_area}, .reads = bit(1)};
constinit const Op op_warp_affine{.name = "warp_affine", .infer = infer_warp, .kernels = {&ref::warp_affine_entry, &KernelTable::warp_affine}};

Tensor adaptive_avg_pool2d(const Tensor& x, Pair size) {
  check_size("adaptive_avg_pool2d", size);
  check_rank("adaptive_avg_pool2d", "the input", x, 4);
  return apply(op_adaptive_avg_pool2d, {x}, sized({x.size(0), x.size(1), size[0], size[1]}));
}
Tensor resize_bilinear(const Tensor& x, Pair size, bool align_corners) {
  check_size("resize_bilinear", size);
  check_rank("resize_bilinear", "the input", x, 4);
  return apply(op_resize_bilinear, {x}, sized({x.size(0), x.size(1), size[0], size[1]}, align_corners));
}
Tensor crop_resize_area(const Tensor& image, const Tensor& boxes, Pair size, float mean, float scale) {
  check_size("crop_resize_area", size);
  return apply(op_crop_resize_area, {image, boxes}, crop_params(size, mean, scale));
}
Tensor warp_affine(const Tensor& image, const Tensor& matrices, Pair size, float mean, float scale) {
  check_size("warp_affine", size);
  return apply(op_warp_affine, {image, matrices}, crop_params(size, mean, scale));
}

}  // namespace mien

// Convolutions by cuDNN, and those of 1x1 in channels_last maps, which are plain matrix products, by cuBLAS. Declined: groups, padding that differs between
// opposite sides, f64 (but for 1x1), and whatever cuDNN has no deterministic algorithm for.
//
// cuDNN takes operands in one order, channels_last or contiguous. An operand in another order is copied into workspace first, the result copied back.
#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "mien/kernels/cuda/library.h"
#include "mien/kernels/cuda/workspace.h"

namespace mien::cuda_library {
namespace {

using cuda::Workspace;

enum class Kind : std::uint8_t { forward, grad_input, grad_weight };
constexpr const char* names[] = {"conv2d", "conv2d_grad_input", "conv2d_grad_weight"};
constexpr std::size_t most_workspace = std::size_t{1} << 30;

// The operands by their part in the forward pass, whatever the kind.
struct Operands {
  const View *x, *w, *y;
};
Operands operands(Kind kind, const KernelArgs& args) {
  switch (kind) {
    case Kind::forward: return {&args.in[0], &args.in[1], &args.out[0]};
    case Kind::grad_input: return {&args.out[0], &args.in[1], &args.in[0]};
    case Kind::grad_weight: break;
  }
  return {&args.in[1], &args.out[0], &args.in[0]};
}

// --- 1x1 ----------------------------------------------------------------------------------------------------------------------

// A channels_last map as a matrix of pixels x channels.
Matrix pixel_rows(const View& v) { return {v.data, v.size(0) * v.size(2) * v.size(3), v.size(1), v.size(1), 1, 0}; }
Matrix transposed(const Matrix& m) { return {m.data, m.columns, m.rows, m.column_step, m.row_step, 0}; }

std::optional<Gemm> as_gemm(Kind kind, const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const auto [x, w, y] = operands(kind, args);
  if (p.groups != 1 || w->size(2) != 1 || w->size(3) != 1 || p.stride != Pair{1, 1} || p.padding != Padding4{0, 0, 0, 0}) return {};
  if (!x->is_channels_last() || !y->is_channels_last() || x->numel() == 0 || y->numel() == 0 || x->size(2) != y->size(2) || x->size(3) != y->size(3)) return {};
  Gemm g;
  g.dtype = args.out[0].dtype;
  const Matrix weight{w->data, w->size(0), w->size(1), w->stride(0), w->stride(1), 0};
  switch (kind) {
    case Kind::forward:
      g.a = pixel_rows(*x);
      g.b = transposed(weight);
      g.y = pixel_rows(*y);
      g.add = args.in.size() > 2;
      break;
    case Kind::grad_input:
      g.a = pixel_rows(*y);
      g.b = weight;
      g.y = pixel_rows(*x);
      break;
    case Kind::grad_weight:
      g.a = transposed(pixel_rows(*y));
      g.b = pixel_rows(*x);
      g.y = weight;
      break;
  }
  return gemm_decline(g) ? std::nullopt : std::optional(g);
}

// --- cuDNN's descriptors and choice ----------------------------------------------------------------------------------------------

// What a plan depends on. Equal keys give equal plans, so that decline, workspace and run agree.
using Key = std::array<std::int64_t, 20>;
Key key_of(Kind kind, const KernelArgs& args, bool channels_last) {
  const auto& p = args.get<ConvParams>();
  const auto [x, w, y] = operands(kind, args);
  return {static_cast<std::int64_t>(kind),
          channels_last,
          x->device.index(),
          static_cast<std::int64_t>(x->dtype),
          args.precision == Precision::bf16,
          x->size(0),
          x->size(1),
          x->size(2),
          x->size(3),
          w->size(0),
          w->size(2),
          w->size(3),
          y->size(2),
          y->size(3),
          p.stride[0],
          p.stride[1],
          p.padding[0],
          p.padding[2],
          p.dilation[0],
          p.dilation[1]};
}

struct Plan {
  cudnnTensorDescriptor_t x = nullptr, y = nullptr;
  cudnnFilterDescriptor_t w = nullptr;
  cudnnConvolutionDescriptor_t convolution = nullptr;
  int algorithm = -1;  // below 0: there is none
  std::size_t workspace = 0;
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    const Cudnn& f = *cudnn();
    if (x) f.cudnnDestroyTensorDescriptor(x);
    if (y) f.cudnnDestroyTensorDescriptor(y);
    if (w) f.cudnnDestroyFilterDescriptor(w);
    if (convolution) f.cudnnDestroyConvolutionDescriptor(convolution);
  }
};

cudnnDataType_t data_type(DType dtype) { return dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : dtype == DType::f16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT; }
Strides order_of(const View& v, bool channels_last) { return channels_last ? channels_last_strides(v.shape) : contiguous_strides(v.shape); }

cudnnStatus_t describe(cudnnTensorDescriptor_t to, const View& v, bool channels_last) {
  const Strides s = order_of(v, channels_last);
  const auto i = [](std::int64_t n) { return static_cast<int>(n); };
  return cudnn()->cudnnSetTensor4dDescriptorEx(to, data_type(v.dtype), i(v.size(0)), i(v.size(1)), i(v.size(2)), i(v.size(3)), i(s[0]), i(s[1]), i(s[2]),
                                               i(s[3]));
}

// Frequency-domain algorithms spread the rounding errors of large values over whole pictures.
bool exact_enough(Kind kind, int algorithm) {
  switch (kind) {
    case Kind::forward: return algorithm != CUDNN_CONVOLUTION_FWD_ALGO_FFT && algorithm != CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING;
    case Kind::grad_input:
      return algorithm != CUDNN_CONVOLUTION_BWD_DATA_ALGO_0 && algorithm != CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT &&
             algorithm != CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT_TILING;
    case Kind::grad_weight: break;
  }
  return algorithm != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0 && algorithm != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3 &&
         algorithm != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT && algorithm != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT_TILING;
}

cudnnStatus_t workspace_size(Kind kind, cudnnHandle_t handle, const Plan& plan, int algorithm, std::size_t& bytes) {
  const Cudnn& f = *cudnn();
  switch (kind) {
    case Kind::forward:
      return f.cudnnGetConvolutionForwardWorkspaceSize(handle, plan.x, plan.w, plan.convolution, plan.y, static_cast<cudnnConvolutionFwdAlgo_t>(algorithm),
                                                       &bytes);
    case Kind::grad_input:
      return f.cudnnGetConvolutionBackwardDataWorkspaceSize(handle, plan.w, plan.y, plan.convolution, plan.x,
                                                            static_cast<cudnnConvolutionBwdDataAlgo_t>(algorithm), &bytes);
    case Kind::grad_weight: break;
  }
  return f.cudnnGetConvolutionBackwardFilterWorkspaceSize(handle, plan.x, plan.y, plan.convolution, plan.w,
                                                          static_cast<cudnnConvolutionBwdFilterAlgo_t>(algorithm), &bytes);
}

// f32 products are exact unless Precision::bf16 allows less: cuDNN's default may round f32 to TF32 (10 bits of mantissa).
cudnnMathType_t math_type(DType dtype, Precision precision) {
  if (dtype != DType::f32) return CUDNN_TENSOR_OP_MATH;
  return precision == Precision::bf16 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

// Whether a proposal's kind of product is allowed. Where tensor cores are, the convolution's descriptor takes the proposal's kind over.
bool take_math(Plan& plan, cudnnMathType_t wanted, cudnnMathType_t proposed) {
  if (wanted == CUDNN_FMA_MATH) return proposed == CUDNN_FMA_MATH || proposed == CUDNN_DEFAULT_MATH;  // the descriptor stays with FMA
  if (proposed == CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION) return false;                                // f32 to f16: other exponents
  return cudnn()->cudnnSetConvolutionMathType(plan.convolution, proposed) == CUDNN_STATUS_SUCCESS;
}

// The first of cuDNN's proposals (it lists the fastest first) that is deterministic and fits.
template <class Proposal>
void choose(Kind kind, cudnnHandle_t handle, Plan& plan, cudnnMathType_t wanted, const Proposal* proposals, int count) {
  for (int i = 0; i < count; ++i) {
    const auto& one = proposals[i];
    const int algorithm = static_cast<int>(one.algo);
    if (one.status != CUDNN_STATUS_SUCCESS || one.determinism != CUDNN_DETERMINISTIC || !exact_enough(kind, algorithm) || one.memory > most_workspace) continue;
    std::size_t bytes = 0;
    if (!take_math(plan, wanted, one.mathType) || workspace_size(kind, handle, plan, algorithm, bytes) != CUDNN_STATUS_SUCCESS || bytes > most_workspace)
      continue;
    plan.algorithm = algorithm;
    plan.workspace = bytes;
    return;
  }
}

void make_plan(Plan& plan, Kind kind, const KernelArgs& args, bool channels_last) {
  const auto& p = args.get<ConvParams>();
  const auto [x, w, y] = operands(kind, args);
  const Cudnn& f = *cudnn();
  const cudnnHandle_t handle = cudnn_handle(x->device.index(), args.stream);
  if (!handle) return;
  const auto i = [](std::int64_t n) { return static_cast<int>(n); };
  const cudnnMathType_t wanted = math_type(x->dtype, args.precision);
  const auto ok = [](cudnnStatus_t status) { return status == CUDNN_STATUS_SUCCESS; };
  if (!ok(f.cudnnCreateTensorDescriptor(&plan.x)) || !ok(f.cudnnCreateTensorDescriptor(&plan.y)) || !ok(f.cudnnCreateFilterDescriptor(&plan.w)) ||
      !ok(f.cudnnCreateConvolutionDescriptor(&plan.convolution)) || !ok(describe(plan.x, *x, channels_last)) || !ok(describe(plan.y, *y, channels_last)) ||
      !ok(f.cudnnSetFilter4dDescriptor(plan.w, data_type(w->dtype), channels_last ? CUDNN_TENSOR_NHWC : CUDNN_TENSOR_NCHW, i(w->size(0)), i(w->size(1)),
                                       i(w->size(2)), i(w->size(3)))) ||
      !ok(f.cudnnSetConvolution2dDescriptor(plan.convolution, i(p.padding[0]), i(p.padding[2]), i(p.stride[0]), i(p.stride[1]), i(p.dilation[0]),
                                            i(p.dilation[1]), CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT)) ||
      !ok(f.cudnnSetConvolutionMathType(plan.convolution, wanted)))
    return;
  constexpr int most = 16;
  int count = 0;
  switch (kind) {
    case Kind::forward: {
      cudnnConvolutionFwdAlgoPerf_t found[most];
      if (ok(f.cudnnGetConvolutionForwardAlgorithm_v7(handle, plan.x, plan.w, plan.convolution, plan.y, most, &count, found)))
        choose(kind, handle, plan, wanted, found, count);
      return;
    }
    case Kind::grad_input: {
      cudnnConvolutionBwdDataAlgoPerf_t found[most];
      if (ok(f.cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, plan.w, plan.y, plan.convolution, plan.x, most, &count, found)))
        choose(kind, handle, plan, wanted, found, count);
      return;
    }
    case Kind::grad_weight: {
      cudnnConvolutionBwdFilterAlgoPerf_t found[most];
      if (ok(f.cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, plan.x, plan.y, plan.convolution, plan.w, most, &count, found)))
        choose(kind, handle, plan, wanted, found, count);
      return;
    }
  }
}

// Plans are few (one for every layer and batch size) and cost milliseconds. When there are very many, all go: a plan made anew is the same.
struct Plans {
  std::mutex mutex;
  std::map<Key, std::shared_ptr<Plan>> made;
};
Plans& plans() {
  static auto* p = new Plans;
  return *p;
}
std::shared_ptr<Plan> plan_of(Kind kind, const KernelArgs& args, bool channels_last) {
  const Key key = key_of(kind, args, channels_last);
  Plans& all = plans();
  const std::lock_guard lock(all.mutex);
  if (const auto at = all.made.find(key); at != all.made.end()) return at->second;
  if (all.made.size() >= 1024) all.made.clear();
  auto plan = std::make_shared<Plan>();
  make_plan(*plan, kind, args, channels_last);  // an error (no memory, say) passes, so the plan is not kept without an algorithm
  all.made.emplace(key, plan);
  return plan;
}

// --- entries -----------------------------------------------------------------------------------------------------------------

const char* unsuitable(Kind kind, const KernelArgs& args) {
  const auto& p = args.get<ConvParams>();
  const auto [x, w, y] = operands(kind, args);
  if (const char* missing = cudnn_missing()) return missing;
  if (args.out[0].dtype == DType::f64) return "f64";
  if (!is_floating(args.out[0].dtype)) return "no floating type";
  if (p.groups != 1) return "groups";
  if (p.padding[0] != p.padding[1] || p.padding[2] != p.padding[3]) return "padding that differs between opposite sides";
  for (const View* v : {x, w, y})
    if (v->numel() == 0 || v->numel() > std::numeric_limits<std::int32_t>::max()) return "an empty or very large operand";
  for (const auto v : {p.stride[0], p.stride[1], p.padding[0], p.padding[2], p.dilation[0], p.dilation[1]})
    if (v > 1 << 20) return "a very large window";
  // A transposed convolution may have positions that no output reads; cuDNN wants the sizes to agree.
  for (int d = 0; d < 2; ++d) {
    const auto side = static_cast<std::size_t>(d);
    const std::int64_t room = x->size(2 + d) + 2 * p.padding[2 * side] - p.dilation[side] * (w->size(2 + d) - 1) - 1;
    if (room < 0 || room / p.stride[side] + 1 != y->size(2 + d)) return "sizes of a transposed convolution with an output padding";
  }
  return nullptr;
}

// The order to work in: the one that x (or else y) has, where cuDNN has an algorithm; else the other.
struct Chosen {
  std::shared_ptr<Plan> plan;  // null: none
  bool channels_last = false;
};
Chosen choose_order(Kind kind, const KernelArgs& args) {
  const auto [x, w, y] = operands(kind, args);
  const bool preferred = !x->is_contiguous() || (!y->is_contiguous() && y->is_channels_last());
  for (const bool channels_last : {preferred, !preferred})
    if (auto plan = plan_of(kind, args, channels_last); plan->algorithm >= 0) return {std::move(plan), channels_last};
  return {};
}

bool in_order(const View& v, bool channels_last) { return channels_last ? v.is_channels_last() : v.is_contiguous(); }

void copy(const KernelArgs& args, const View& from, const View& to) {
  KernelArgs one = args;
  one.in = {&from, 1};
  one.out = {&to, 1};
  one.params = nullptr;
  cuda::copy_entry.run(one);
}

// `v` in the order that the plan works in: itself, or its place in the workspace.
View staged(const View& v, bool channels_last, Workspace& pieces) {
  if (in_order(v, channels_last)) return v;
  View s = v;
  s.strides = order_of(v, channels_last);
  s.data = pieces.take(v.numel() * item_size(v.dtype));
  return s;
}

const KernelEntry& own(Kind kind) {
  return kind == Kind::forward ? cuda::conv2d_entry : kind == Kind::grad_input ? cuda::conv2d_grad_input_entry : cuda::conv2d_grad_weight_entry;
}

template <Kind kind>
const char* decline(const KernelArgs& args) {
  if (as_gemm(kind, args)) return nullptr;
  if (const char* reason = unsuitable(kind, args)) return reason;
  return choose_order(kind, args).plan ? nullptr : "cuDNN has no deterministic algorithm for it";
}

template <Kind kind>
std::int64_t workspace(const KernelArgs& args) {
  if (as_gemm(kind, args)) return cublas_workspace;
  const std::int64_t spare = own(kind).workspace ? own(kind).workspace(args) : 0;  // see run()
  const Chosen c = choose_order(kind, args);
  if (!c.plan) return spare;
  const auto [x, w, y] = operands(kind, args);
  Workspace pieces(nullptr);
  for (const View* v : {x, w, y}) staged(*v, c.channels_last, pieces);
  pieces.take(static_cast<std::int64_t>(c.plan->workspace));
  return std::max(pieces.bytes(), spare);
}

template <Kind kind>
void run(const KernelArgs& args) {
  const auto [x, w, y] = operands(kind, args);
  const int device = x->device.index();
  if (const auto g = as_gemm(kind, args)) {
    if (g->add) fill_with_bias(args, *y, args.in[2]);
    return gemm(args, device, *g, names[static_cast<int>(kind)]);
  }
  const Chosen c = choose_order(kind, args);
  if (!c.plan) return own(kind).run(args);
  // cuDNN wants aligned operands; which kernel runs may not depend on addresses, so the own one steps in from here.
  for (const View* v : {x, w, y})
    if (reinterpret_cast<std::uintptr_t>(v->data) % 16 != 0) return own(kind).run(args);
  const Plan& plan = *c.plan;
  Workspace pieces(args.workspace);
  const View sx = staged(*x, c.channels_last, pieces), sw = staged(*w, c.channels_last, pieces), sy = staged(*y, c.channels_last, pieces);
  void* scratch = pieces.take(static_cast<std::int64_t>(plan.workspace));
  const auto fetch = [&](const View& from, const View& to) {
    if (from.data != to.data) copy(args, from, to);
  };
  const Cudnn& f = *cudnn();
  const cudnnHandle_t handle = cudnn_handle(device, args.stream);
  const float one = 1, zero = 0;
  cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
  if constexpr (kind == Kind::forward) {
    fetch(*x, sx);
    fetch(*w, sw);
    status = f.cudnnConvolutionForward(handle, &one, plan.x, sx.data, plan.w, sw.data, plan.convolution, static_cast<cudnnConvolutionFwdAlgo_t>(plan.algorithm),
                                       scratch, plan.workspace, &zero, plan.y, sy.data);
  } else if constexpr (kind == Kind::grad_input) {
    fetch(*y, sy);
    fetch(*w, sw);
    status = f.cudnnConvolutionBackwardData(handle, &one, plan.w, sw.data, plan.y, sy.data, plan.convolution,
                                            static_cast<cudnnConvolutionBwdDataAlgo_t>(plan.algorithm), scratch, plan.workspace, &zero, plan.x, sx.data);
  } else {
    fetch(*x, sx);
    fetch(*y, sy);
    status = f.cudnnConvolutionBackwardFilter(handle, &one, plan.x, sx.data, plan.y, sy.data, plan.convolution,
                                              static_cast<cudnnConvolutionBwdFilterAlgo_t>(plan.algorithm), scratch, plan.workspace, &zero, plan.w, sw.data);
  }
  // Some shapes are refused only now, before anything ran: the own kernel takes them, in the workspace that was booked for it, too.
  if (status != CUDNN_STATUS_SUCCESS && status < CUDNN_STATUS_INTERNAL_ERROR) return own(kind).run(args);
  check(status, names[static_cast<int>(kind)]);
  if constexpr (kind == Kind::forward) {
    fetch(sy, *y);
    if (args.in.size() > 2) add_bias(args, *y, args.in[2]);
  } else if constexpr (kind == Kind::grad_input) {
    fetch(sx, *x);
  } else {
    fetch(sw, *w);
  }
}

}  // namespace

const KernelEntry conv2d_entry = {run<Kind::forward>, decline<Kind::forward>, workspace<Kind::forward>};
const KernelEntry conv2d_grad_input_entry = {run<Kind::grad_input>, decline<Kind::grad_input>, workspace<Kind::grad_input>};
const KernelEntry conv2d_grad_weight_entry = {run<Kind::grad_weight>, decline<Kind::grad_weight>, workspace<Kind::grad_weight>};

}  // namespace mien::cuda_library

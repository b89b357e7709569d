// What an op is: plain data. One `constinit const Op op_NAME` per row of ops/table.h, beside its public function in ops/FAMILY.cpp.
//
// To add one: tools/new-op NAME writes the skeletons; CONTRIBUTING tells the rest.
#pragma once

#include <array>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "mien/autograd/autograd.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/params.h"

namespace mien {

// A copy of a params struct in fixed storage: what a node keeps.
class Params {
 public:
  Params() = default;
  template <class P>
    requires(!std::is_same_v<P, Params>)
  Params(const P& p) {  // NOLINT: implicit on purpose, apply(op, {x}, ConvParams{...}) reads well
    static_assert(std::is_trivially_copyable_v<P> && sizeof(P) <= sizeof(bytes_));
    std::memcpy(bytes_.data(), &p, sizeof(P));
  }
  const void* data() const noexcept { return bytes_.data(); }
  void* data() noexcept { return bytes_.data(); }

 private:
  alignas(8) std::array<std::byte, 200> bytes_{};
};

struct OutputSpec {
  Shape shape;
  DType dtype = DType::f32;
  Layout layout = Layout::contiguous;
  std::optional<Device> device = {};  // of an output: unset where the inputs are; of an input: set
};

// What a derivative gets: everything defined only where the op asked for it (save_inputs, save_outputs).
struct Vjp {
  const char* op;
  std::span<const Tensor> grads;           // of the outputs; undefined means zero
  std::span<const Tensor> inputs;          // those saved
  std::span<const Tensor> outputs;         // those saved
  std::span<const OutputSpec> input_specs; // shape and dtype of every input
  std::span<const bool> needs;             // which input gradients are wanted
  const void* params;
  std::span<Tensor> result;                // to be filled, one per input
  std::span<const Tensor> sums = {};       // defined where result[i] may be added in place: then result[i] = sums[i], or a tensor of its own as ever
  template <class P>
  const P& get() const noexcept {
    return *static_cast<const P*>(params);
  }
};

enum class Broadcast : std::uint8_t { none, full, batch };  // of the inputs' views before the kernel sees them (batch: all but the last two dims)
enum class Fusion : std::uint8_t { none, elementwise, reduction, contraction };

using Inputs = std::span<const Tensor>;
using Outputs = std::vector<OutputSpec>;

struct Saves {
  std::uint32_t inputs = 0, outputs = 0;  // as save_inputs and save_outputs
};

struct Op {
  const char* name;
  // Checks everything and pushes one spec per output. Throws ShapeError, DTypeError.
  void (*infer)(Inputs in, const void* params, Outputs& out);
  // Null: the op has no derivative (its outputs never require one).
  void (*vjp)(const Vjp&) = nullptr;
  std::uint32_t save_inputs = 0, save_outputs = 0;  // bit i: the derivative needs input / output i
  KernelList kernels{};
  // Set for ops that only look at the same memory in another way; then there is no kernel. Turns the input's view into the output's; false when the
  // elements don't lie so that strides can say it (the public function copies first).
  bool (*view)(View& v, const void* params) = nullptr;
  Broadcast broadcast = Broadcast::none;
  Fusion fusion = Fusion::none;
  // For families: the member's name from the parameters.
  const char* (*member)(const void* params) = nullptr;
  // For families: what this member needs of save_inputs and save_outputs (a sum needs nothing of what a maximum needs). Null: all of it.
  Saves (*saves)(const void* params) = nullptr;
  // Set where the parameters hold sizes: changes those of a call whose first input had the shape `then` to those of the same call on `now`.
  // Note [Sizes that follow] in view.cpp tells the rule.
  void (*follow)(void* params, const Shape& then, const Shape& now) = nullptr;
  // Bit i: infer reads the elements of input i, so the output's shape or the check depends on values.
  std::uint32_t reads = 0;
};

inline constexpr std::uint32_t bit(int i) { return std::uint32_t{1} << i; }

// Infers, allocates, runs the best kernel and records the derivative when one of the inputs requires it. Trailing optional inputs are left out.
Tensor apply(const Op& op, Inputs inputs, const Params& params = {});
std::vector<Tensor> apply_all(const Op& op, Inputs inputs, const Params& params = {});
inline Tensor apply(const Op& op, std::initializer_list<Tensor> in, const Params& p = {}) { return apply(op, Inputs(in.begin(), in.size()), p); }
inline std::vector<Tensor> apply_all(const Op& op, std::initializer_list<Tensor> in, const Params& p = {}) {
  return apply_all(op, Inputs(in.begin(), in.size()), p);
}
// Runs a kernel that writes into existing tensors (optimizer steps, fill): bumps their versions, records nothing.
// Throws NotDifferentiable when grad mode is on and one of `out` is not a leaf.
void apply_in_place(const char* name, const KernelList& kernels, Inputs in, Inputs out, const Params& params);
inline void apply_in_place(const char* name, const KernelList& kernels, std::initializer_list<Tensor> in, std::initializer_list<Tensor> out, const Params& params) {
  apply_in_place(name, kernels, Inputs(in.begin(), in.size()), Inputs(out.begin(), out.size()), params);
}

// Every op of the table, in its order.
std::span<const Op* const> all_ops();
// An input's view as the op's kernel sees it: expanded to the output's shape where the op broadcasts.
View broadcast_view(const Op& op, View input, const Shape& output);

// Is told of every op that its thread applies while it lives: infer/ records plans with it. One at a time; the one before is back afterwards.
class OpListener {
 public:
  OpListener() noexcept;
  virtual ~OpListener();
  OpListener(const OpListener&) = delete;
  OpListener& operator=(const OpListener&) = delete;
  virtual void applied(const Op& op, const Params& params, Inputs in, std::span<const Tensor> out) = 0;
  virtual void applied_in_place(const char* name, Inputs in, Inputs out) = 0;

 private:
  OpListener* before_;
};

// --- helpers for infer functions -------------------------------------------------------------------------------------
void check_rank(const char* op, const char* what, const Tensor& t, int rank);
void check_floating(const char* op, const Tensor& t);            // f32, f64, bf16 or f16
void check_same_dtype(const char* op, Inputs in);                // the error names the cast
DType parameter_dtype(const Tensor& x);                          // of what belongs to a map: f32 for 16 bits, else the map's own
void check_parameters(const char* op, const Tensor& x, Inputs parameters);
void check_same_shape(const char* op, const Tensor& a, const Tensor& b);
Layout layout_like(const Tensor& t);                             // channels_last stays channels_last
OutputSpec spec_like(const Tensor& t);
std::string describe_all(Inputs in);                             // "f32[1, 3, 8, 8], f32[4, 3, 3, 3]"

}  // namespace mien

// What the conformance test is made of: operands in every memory order between guard bands, and the comparison with `ref` in f64.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "mien/kernels/kernel.h"
#include "mien/kernels/params.h"
#include "mien/tensor/allocator.h"
#include "mien/tensor/generator.h"

namespace mien::test {

// Random choices of one case: a function of the seed alone.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : seed_(seed) {}
  std::int64_t integer(std::int64_t low, std::int64_t high) { return low + philox_integer(seed_, 0, next_++, high - low + 1); }  // both included
  double uniform(double low, double high) { return low + (high - low) * static_cast<double>(philox_uniform(seed_, 1, next_++)); }
  bool chance(double p) { return static_cast<double>(philox_uniform(seed_, 2, next_++)) < p; }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[integer(0, static_cast<std::int64_t>(values.size()) - 1)];
  }

 private:
  std::uint64_t seed_, next_ = 0;
};

enum class Order { contiguous, channels_last, stepped, permuted, flipped, expanded, per_channel, channel_slice };

// Memory of one operand. It ends at a guard page (a read or write past the end is a SIGSEGV) and begins after a band of 0xff bytes; so are all
// bytes between its elements. Every element starts as 0xff bytes too: NaN, or an index that cannot be.
class Operand {
 public:
  Operand(const Shape& shape, DType dtype, Order order, Dice& dice);
  Operand(const Shape& shape, DType dtype, const Strides& strides);
  Operand(Operand&& o) noexcept : allocator_(std::move(o.allocator_)), block_(o.block_), bytes_(o.bytes_), view_(o.view_) { o.block_ = nullptr; }
  Operand& operator=(Operand&&) = delete;
  ~Operand() {
    if (block_) allocator_->deallocate(block_, bytes_);
  }
  const View& view() const { return view_; }
  // Offsets in elements from view().data, in logical order.
  std::vector<std::int64_t> offsets() const;
  // Whether every byte that belongs to no element is still 0xff.
  bool bands_intact() const;
  double get(std::int64_t offset) const;
  void set(std::int64_t offset, double value);
  std::string element_bytes() const;  // of all elements in logical order
  void drop_first();                  // forget dimension 0, whose size is 1
  std::byte* block() const { return block_; }      // the whole memory, bands and elements
  std::int64_t block_bytes() const { return bytes_; }

 private:
  std::shared_ptr<Allocator> allocator_;
  std::byte* block_ = nullptr;
  std::int64_t bytes_ = 0;
  View view_;
};

// The same values, contiguous, floating types as f64.
Operand widened(const Operand& from, bool absolute, Dice& dice);

struct Output {
  Shape shape;
  DType dtype = DType::f32;
  Order order = Order::contiguous;
  std::vector<double> start;  // values to begin with (in-place kernels); empty: 0xff bytes
};

// One call of a kernel. `magnitudes`: which inputs become |values|, and with which parameters, so that ref then gives the sum of |terms| of
// every output element; empty: errors are measured against max(1, |ref|).
struct Problem {
  std::vector<Operand> in;
  std::vector<Output> out;
  std::vector<std::byte> params, magnitude_params;
  std::vector<bool> magnitudes;
  bool exact = false;       // small whole numbers: no error at all
  bool wide = false;        // numbers that 16 bits round away decide over a choice
  bool by_largest = false;  // errors count as shares of each output's largest value: for kernels whose sums have terms that a direct one has not (Winograd)
  std::string text;         // for the message of a failure

  template <class P>
  void set_params(const P& p) {
    params.resize(sizeof(P));
    std::memcpy(params.data(), &p, sizeof(P));
  }
  template <class P>
  void set_magnitude_params(const P& p) {
    magnitude_params.resize(sizeof(P));
    std::memcpy(magnitude_params.data(), &p, sizeof(P));
  }
};

struct Row {
  const char* name;
  KernelList list;
  Problem (*make)(Dice& dice, int number);
};
Problem make_packed_conv2d(Dice& dice, int number);  // conformance_packed_test.cpp
Problem make_packed_winograd(Dice& dice, int number);
// One row for each kernel of MIEN_CPU_KERNELS (conformance_problems_test.cpp).
const std::vector<Row>& conformance_rows();
// One row for each of the others (conformance_problems_device_test.cpp): on the CPU they have the reference alone.
const std::vector<Row>& device_conformance_rows();

}  // namespace mien::test

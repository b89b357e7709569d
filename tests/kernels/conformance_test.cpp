// Every entry of every fast CPU kernel, at every level this machine has, against `ref` in f64.
//
//   MIEN_CONFORMANCE=conv2d:123 mien_tests "[conformance]"    one case again (a failure prints this line); without the number all cases of a kernel
//   MIEN_CONFORMANCE_CASES=5000, MIEN_CONFORMANCE_SEED=7      more cases, others
#include "kernels/conformance.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>

#include "catch.h"
#include "mien/kernels/cpu/table.h"
#include "mien/kernels/parallel.h"
#include "mien/tensor/tensor.h"

namespace mien::test {
namespace {

// Strides of `order` for `shape`. An order that the rank does not have is contiguous.
Strides strides_of(const Shape& shape, Order order, Dice& dice) {
  const int rank = shape.rank();
  switch (order) {
    case Order::channels_last:
      if (rank == 4) return channels_last_strides(shape);
      break;
    case Order::channel_slice:  // of a wider channels_last map
      if (rank == 4) {
        Shape wider = shape;
        wider[1] += dice.integer(1, 20);
        return channels_last_strides(wider);
      }
      break;
    case Order::stepped: {  // every second element, with a gap after each row
      Strides s = shape;
      std::int64_t step = 2;
      for (int d = rank - 1; d >= 0; --d) {
        s[d] = step;
        step *= std::max<std::int64_t>(shape[d], 1) + 1;
      }
      return s;
    }
    case Order::permuted: {  // the first dimension runs fastest
      Strides s = shape;
      std::int64_t step = 1;
      for (int d = 0; d < rank; ++d) {
        s[d] = step;
        step *= std::max<std::int64_t>(shape[d], 1);
      }
      return s;
    }
    case Order::flipped: {
      Strides s = contiguous_strides(shape);
      if (rank > 0) {
        const int d = static_cast<int>(dice.integer(0, rank - 1));
        s[d] = -s[d];
      }
      return s;
    }
    case Order::expanded: {  // one dimension does not move
      if (rank == 0) break;
      const int still = static_cast<int>(dice.integer(0, rank - 1));
      Shape one = shape;
      one[still] = 1;
      Strides s = contiguous_strides(one);
      s[still] = 0;
      return s;
    }
    case Order::per_channel: {  // only dimension 1 moves
      Strides s = Shape::filled(rank, 0);
      if (rank > 1) s[1] = 1;
      return s;
    }
    case Order::contiguous: break;
  }
  return contiguous_strides(shape);
}

std::int64_t seed_base() {
  const char* text = std::getenv("MIEN_CONFORMANCE_SEED");
  return text ? std::atoll(text) : 1;
}
int case_count() {
  const char* text = std::getenv("MIEN_CONFORMANCE_CASES");
  return text ? std::max(1, std::atoi(text)) : 300;
}
// What MIEN_CONFORMANCE asks for: everything, all cases of a kernel, or one case [first, last).
struct Wanted {
  std::string kernel;
  int first = 0, last = case_count();
  Wanted() {
    const char* text = std::getenv("MIEN_CONFORMANCE");
    kernel = text ? text : "";
    if (const std::size_t colon = kernel.find(':'); colon != std::string::npos) {
      first = std::atoi(kernel.substr(colon + 1).c_str());
      last = first + 1;
      kernel.resize(colon);
    }
  }
  bool everything() const { return kernel.empty(); }
  bool has(const std::string& name) const { return everything() || name == kernel; }
};

}  // namespace

Operand::Operand(const Shape& shape, DType dtype, Order order, Dice& dice) : Operand(shape, dtype, strides_of(shape, order, dice)) {}

Operand::Operand(const Shape& shape, DType dtype, const Strides& strides) : allocator_(make_debug_allocator()) {
  view_.shape = shape;
  view_.dtype = dtype;
  view_.strides = strides;
  std::int64_t low = 0, high = 0;
  for (int d = 0; d < shape.rank(); ++d) (view_.strides[d] < 0 ? low : high) += (shape[d] - 1) * view_.strides[d];
  const std::int64_t elements = numel(shape) == 0 ? 0 : high - low + 1;
  bytes_ = 64 + elements * item_size(dtype);
  block_ = static_cast<std::byte*>(allocator_->allocate(bytes_));
  bytes_ = (bytes_ + 63) / 64 * 64;  // the guard page stands at the end of the padded block: so do the elements
  view_.data = block_ + bytes_ - (elements + (elements > 0 ? low : 0)) * item_size(dtype);
}

std::vector<std::int64_t> Operand::offsets() const {
  std::vector<std::int64_t> out;
  const std::int64_t count = numel(view_.shape);
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i, offset = 0;
    for (int d = view_.rank() - 1; d >= 0; --d) {
      offset += rest % view_.size(d) * view_.stride(d);
      rest /= view_.size(d);
    }
    out.push_back(offset);
  }
  return out;
}

bool Operand::bands_intact() const {
  std::vector<bool> element(static_cast<std::size_t>(bytes_), false);
  const std::int64_t size = item_size(view_.dtype), first = static_cast<std::byte*>(view_.data) - block_;
  for (const auto o : offsets())
    for (std::int64_t k = 0; k < size; ++k) element[static_cast<std::size_t>(first + o * size + k)] = true;
  for (std::int64_t i = 0; i < bytes_; ++i)
    if (!element[static_cast<std::size_t>(i)] && block_[i] != std::byte{0xff}) return false;
  return true;
}

double Operand::get(std::int64_t o) const {
  switch (view_.dtype) {
    case DType::f32: return static_cast<double>(view_.ptr<float>()[o]);
    case DType::f64: return view_.ptr<double>()[o];
    case DType::bf16: return static_cast<double>(to_float(view_.ptr<bfloat16>()[o]));
    case DType::f16: return static_cast<double>(to_float(view_.ptr<float16>()[o]));
    case DType::i32: return view_.ptr<std::int32_t>()[o];
    case DType::i64: return static_cast<double>(view_.ptr<std::int64_t>()[o]);
    default: return view_.ptr<std::uint8_t>()[o];
  }
}

void Operand::set(std::int64_t o, double value) {
  switch (view_.dtype) {
    case DType::f32: view_.ptr<float>()[o] = static_cast<float>(value); break;
    case DType::f64: view_.ptr<double>()[o] = value; break;
    case DType::bf16: view_.ptr<bfloat16>()[o] = to_bfloat16(static_cast<float>(value)); break;
    case DType::f16: view_.ptr<float16>()[o] = to_float16(static_cast<float>(value)); break;
    case DType::i32: view_.ptr<std::int32_t>()[o] = static_cast<std::int32_t>(value); break;
    case DType::i64: view_.ptr<std::int64_t>()[o] = static_cast<std::int64_t>(value); break;
    default: view_.ptr<std::uint8_t>()[o] = static_cast<std::uint8_t>(value);
  }
}

std::string Operand::element_bytes() const {
  std::string out;
  const std::int64_t size = item_size(view_.dtype);
  for (const auto o : offsets()) out.append(static_cast<const char*>(view_.data) + o * size, static_cast<std::size_t>(size));
  return out;
}

void Operand::drop_first() {
  Shape shape, strides;
  for (int d = 1; d < view_.rank(); ++d) {
    shape.push_back(view_.shape[d]);
    strides.push_back(view_.strides[d]);
  }
  view_.shape = shape;
  view_.strides = strides;
}

Operand widened(const Operand& from, bool absolute, Dice& dice) {
  const View& v = from.view();
  Operand to(v.shape, is_floating(v.dtype) ? DType::f64 : v.dtype, Order::contiguous, dice);
  std::int64_t i = 0;
  for (const auto o : from.offsets()) to.set(i++, absolute ? std::abs(from.get(o)) : from.get(o));
  return to;
}

namespace {

using Operands = std::vector<Operand>;

std::vector<View> views(const Operands& operands) {
  std::vector<View> out;
  for (const auto& o : operands) out.push_back(o.view());
  return out;
}

Operands make_outputs(const Problem& p, bool wide, Dice& dice, DType floats = DType::f32) {
  Operands out;
  for (const auto& o : p.out) {
    out.emplace_back(o.shape, !is_floating(o.dtype) ? o.dtype : wide ? DType::f64 : o.dtype == DType::f32 ? floats : o.dtype, wide ? Order::contiguous : o.order, dice);
    if (o.start.empty()) continue;
    std::size_t i = 0;
    for (const auto at : out.back().offsets()) out.back().set(at, o.start[i++]);
  }
  return out;
}

// Runs `entry` with exactly the workspace it booked, ending at a guard page. Returns the reason when it declines.
const char* run_entry(const KernelEntry& entry, const Operands& in, const Operands& out, const std::vector<std::byte>& params, Precision precision = Precision::f32) {
  const auto in_views = views(in), out_views = views(out);
  KernelArgs args{in_views, out_views, params.data(), nullptr, precision};
  if (const char* reason = entry.decline ? entry.decline(args) : nullptr) return reason;
  const auto allocator = make_debug_allocator();
  const std::int64_t bytes = entry.workspace ? entry.workspace(args) : 0;
  args.workspace = allocator->allocate(bytes);
  entry.run(args);
  allocator->deallocate(args.workspace, bytes);
  return nullptr;
}

// --- on a GPU ---------------------------------------------------------------------------------------------------------------
// The block of an operand there, with a band of 0xff bytes behind it (before the elements and between them the block has its own).
struct DeviceBlock {
  static constexpr std::int64_t band = 512;
  DeviceBlock(const void* bytes, std::int64_t count) : bytes_(count), memory_(Tensor::empty({count + band}, DType::u8, Layout::contiguous, Device::cuda())) {
    std::vector<std::uint8_t> all(static_cast<std::size_t>(count + band), 0xff);
    if (bytes) std::memcpy(all.data(), bytes, static_cast<std::size_t>(count));
    copy_memory(memory_.raw_data(), memory_.device(), all.data(), Device::cpu(), count + band);
  }
  std::byte* data() const { return static_cast<std::byte*>(memory_.raw_data()); }
  // Brings the bytes back. False when the band behind them was written.
  bool fetch(std::byte* to) const {
    std::vector<std::byte> all(static_cast<std::size_t>(bytes_ + band));
    copy_memory(all.data(), Device::cpu(), memory_.raw_data(), memory_.device(), bytes_ + band);
    if (to) std::memcpy(to, all.data(), static_cast<std::size_t>(bytes_));
    return std::all_of(all.begin() + bytes_, all.end(), [](std::byte b) { return b == std::byte{0xff}; });
  }

 private:
  std::int64_t bytes_;
  Tensor memory_;
};

// As run_entry, on copies of the operands' blocks. `wrong`: what was written outside.
const char* run_on_gpu(const KernelEntry& entry, const Operands& in, const Operands& out, const std::vector<std::byte>& params, std::string& wrong) {
  const Device device = Device::cuda();
  std::vector<DeviceBlock> blocks;
  const auto moved = [&](const Operands& operands) {
    std::vector<View> all;
    for (const auto& o : operands) {
      View v = o.view();
      blocks.emplace_back(o.block(), o.block_bytes());
      v.data = blocks.back().data() + (static_cast<std::byte*>(v.data) - o.block());
      v.device = device;
      all.push_back(v);
    }
    return all;
  };
  const auto in_views = moved(in), out_views = moved(out);
  make_current(device);
  KernelArgs args{in_views, out_views, params.data(), nullptr, Precision::f32, current_stream(device).handle};
  if (const char* reason = entry.decline ? entry.decline(args) : nullptr) return reason;
  const DeviceBlock workspace(nullptr, entry.workspace ? entry.workspace(args) : 0);
  args.workspace = workspace.data();
  entry.run(args);
  synchronize(device);
  if (!workspace.fetch(nullptr)) wrong = "bytes behind the workspace were written";
  for (std::size_t i = 0; i < blocks.size(); ++i)
    if (!blocks[i].fetch(i < in.size() ? in[i].block() : out[i - in.size()].block())) wrong = "bytes behind operand " + std::to_string(i) + " were written";
  return nullptr;
}

// Kernels whose maps may be 16-bit while what belongs to the channels stays f32.
bool keeps_parameters(const Row& row) {
  const std::string name = row.name;
  return name.rfind("batch_norm", 0) == 0 || name.rfind("norm_", 0) == 0 || name == "channel_affine";
}

// On the CPU the weights of a convolution stay f32, too: every operand but the maps.
bool keeps_weights(const Row& row, std::size_t operand, bool output) {
  const std::string name = row.name;
  if (name == "conv2d" || name == "conv2d_grad_input") return !output && operand > 0;
  if (name == "conv2d_grad_input_add") return !output && operand == 1;
  return name == "conv2d_grad_weight" && output;
}

// The same problem with its f32 operands in another floating type, values rounded to it; memory orders stay.
Problem in_dtype(const Row& row, const Problem& p, DType dtype, bool cpu = false) {
  const bool half = dtype == DType::bf16 || dtype == DType::f16;
  const auto changes = [&](DType from, const Shape& shape, std::size_t operand, bool output) {
    if (half && ((keeps_parameters(row) && shape.rank() == 1) || (cpu && keeps_weights(row, operand, output)))) return false;
    return from == DType::f32;
  };
  Problem q;
  for (const auto& o : p.in) {
    Operand to(o.view().shape, changes(o.view().dtype, o.view().shape, q.in.size(), false) ? dtype : o.view().dtype, o.view().strides);
    const auto at = o.offsets();
    for (const auto k : at) to.set(k, o.get(k));
    q.in.push_back(std::move(to));
  }
  q.out = p.out;
  for (std::size_t i = 0; i < q.out.size(); ++i)
    if (changes(q.out[i].dtype, q.out[i].shape, i, true)) q.out[i].dtype = dtype;
  q.params = p.params;
  q.magnitude_params = p.magnitude_params;
  q.magnitudes = p.magnitudes;
  q.exact = p.exact && !half;
  q.by_largest = p.by_largest;
  q.text = p.text + " as " + name(dtype);
  return q;
}

struct Expected {
  Operands values, magnitudes;  // magnitudes: empty when the measure is max(1, |ref|)
};
Expected expect(const Row& row, const Problem& p, Dice& dice) {
  Expected e;
  Operands in, sizes;
  for (const auto& o : p.in) in.push_back(widened(o, false, dice));
  e.values = make_outputs(p, true, dice);
  run_entry(*row.list.ref, in, e.values, p.params);
  if (p.magnitudes.empty()) return e;
  for (std::size_t i = 0; i < p.in.size(); ++i) sizes.push_back(widened(p.in[i], p.magnitudes[i], dice));
  e.magnitudes = make_outputs(p, true, dice);
  run_entry(*row.list.ref, sizes, e.magnitudes, p.magnitude_params.empty() ? p.params : p.magnitude_params);
  return e;
}

// Empty when `got` is what it must be; else what is wrong with it. `by_largest`: errors count as shares of each output's largest value.
std::string compare(const Problem& p, const Operands& got, const Expected& e, double& worst, double tolerance, bool by_largest = false) {
  for (std::size_t k = 0; k < got.size(); ++k) {
    if (!got[k].bands_intact()) return "output " + std::to_string(k) + ": bytes outside of its elements were written";
    const bool floating = is_floating(got[k].view().dtype);
    double largest = 1;
    if (by_largest || p.by_largest)
      for (std::int64_t i = 0; i < got[k].view().numel(); ++i) largest = std::max(largest, std::abs(e.values[k].get(i)));
    std::int64_t i = -1;
    for (const auto o : got[k].offsets()) {
      const double x = got[k].get(o), want = e.values[k].get(++i);
      if (x == want || (std::isnan(x) && std::isnan(want))) continue;
      const double scale = e.magnitudes.empty() ? std::max(largest, std::abs(want)) : std::abs(e.magnitudes[k].get(i));
      const double error = std::abs(x - want) / scale;
      // Below 2^-14 the values of f16 are 2^-24 apart, whatever the terms.
      const bool subnormal = got[k].view().dtype == DType::f16 && std::abs(x - want) <= 0x1p-24;
      if (floating && !p.exact && (error <= tolerance || subnormal)) {
        if (error <= tolerance) worst = std::max(worst, error);
        continue;
      }
      return "output " + std::to_string(k) + " element " + std::to_string(i) + ": got " + std::to_string(x) + ", ref " + std::to_string(want) + ", error " +
             std::to_string(error) + " of the sum of terms" + (p.exact ? " (must be equal)" : "");
    }
  }
  return {};
}

struct Tally {
  int compared = 0, declined = 0;
  double worst = 0;
  std::map<std::string, int> reasons;
};

std::string describe(const Problem& p) {
  std::string text = p.text;
  for (const auto& o : p.in) text += std::string(" ") + name(o.view().dtype) + to_string(o.view().shape) + "/" + to_string(o.view().strides);
  return text;
}

// One case at one level. Returns what is wrong, or nothing.
std::string check(const KernelEntry& entry, const Problem& p, const Expected& e, std::uint64_t seed, bool threads, Tally& tally, Precision precision = Precision::f32,
                  double tolerance = 0) {
  if (tolerance == 0) tolerance = precision == Precision::bf16x3 ? 5e-5 : 2e-5;
  Dice dice(seed ^ 0x5eed);
  const Operands out = make_outputs(p, false, dice);
  set_num_threads(1);
  if (const char* reason = run_entry(entry, p.in, out, p.params, precision)) {
    ++tally.declined;
    ++tally.reasons[reason];
    return {};
  }
  ++tally.compared;
  for (const auto& o : p.in)
    if (!o.bands_intact()) return "bytes beside an input were written";
  if (const auto wrong = compare(p, out, e, tally.worst, tolerance); !wrong.empty()) return wrong;
  if (!threads) return {};
  for (const int n : {2, 3, 4, 8}) {
    Dice again(seed ^ 0x5eed);
    const Operands other = make_outputs(p, false, again);
    set_num_threads(n);
    run_entry(entry, p.in, other, p.params, precision);
    for (std::size_t k = 0; k < out.size(); ++k)
      if (out[k].element_bytes() != other[k].element_bytes()) return "other bits with " + std::to_string(n) + " threads than with 1";
  }
  return {};
}

std::vector<Level> levels_here() {
  std::vector<Level> out;
  for (int l = 0; l <= static_cast<int>(machine_cpu_level()); ++l) out.push_back(static_cast<Level>(l));
  return out;
}

// Every second problem has inputs that bf16 holds exactly. There plain bf16 products must be as good as f32 ones; elsewhere bf16x3 ones err by up to
// 3 * 2^-16 of a term (the rounded low parts and the product of two low parts).
bool exact_in_bf16(int number) { return number % 2 == 0; }
void round_to_bf16(Problem& p) {
  for (auto& o : p.in)
    if (o.view().dtype == DType::f32)
      for (const auto at : o.offsets()) o.set(at, static_cast<double>(to_float(to_bfloat16(static_cast<float>(o.get(at))))));
}
std::vector<Precision> precisions(Level level, int number) {
  if (level != Level::amx) return {Precision::f32};
  if (exact_in_bf16(number)) return {Precision::f32, Precision::bf16x3, Precision::bf16};
  return {Precision::f32, Precision::bf16x3};
}

struct Threads {  // as they were
  int before = num_threads();
  ~Threads() { set_num_threads(before); }
};

// Outputs in 16 bits err by half a unit in the last place of the value, as a share of the scale, and as much again for a sum that was rounded between.
double tolerance_of(DType dtype) { return dtype == DType::f64 ? 1e-9 : dtype == DType::f32 ? 2e-5 : dtype == DType::bf16 ? 8e-3 : 1e-3; }
// norm_conv keeps whole maps between its steps in 16 bits, and its gradients are sums over such maps: what the roundings add up to has the size of the output's
// largest values, whatever the own value is, and up to four times that of one rounding.
bool errs_by_largest(const Row& row, DType dtype) { return (dtype == DType::bf16 || dtype == DType::f16) && std::string(row.name).rfind("norm_conv", 0) == 0; }

std::string check_on_gpu(const Row& row, const KernelEntry& entry, const Problem& p, const Expected& e, DType dtype, std::uint64_t seed, bool twice, Tally& tally) {
  Dice dice(seed ^ 0x5eed), again(seed ^ 0x5eed);
  const Operands out = make_outputs(p, false, dice);
  std::string wrong;
  try {
    if (const char* reason = run_on_gpu(entry, p.in, out, p.params, wrong)) {
      ++tally.declined;
      ++tally.reasons[reason];
      return {};
    }
  } catch (const DTypeError& error) {
    ++tally.declined;
    ++tally.reasons[error.what()];
    return {};
  } catch (const DeviceError& error) {
    return error.what();
  }
  ++tally.compared;
  if (!wrong.empty()) return wrong;
  for (const auto& o : p.in)
    if (!o.bands_intact()) return "bytes beside an input were written";
  const bool by_largest = errs_by_largest(row, dtype);
  if (wrong = compare(p, out, e, tally.worst, tolerance_of(dtype) * (by_largest ? 4 : 1), by_largest); !wrong.empty() || !twice) return wrong;
  const Operands other = make_outputs(p, false, again);
  run_on_gpu(entry, p.in, other, p.params, wrong);
  for (std::size_t k = 0; k < out.size(); ++k)
    if (out[k].element_bytes() != other[k].element_bytes()) return "other bits the second time";
  return wrong;
}

}  // namespace

// MIEN_CONFORMANCE_DTYPES=f32,f64,bf16,f16 chooses.
TEST_CASE("every CUDA kernel does what ref does", "[conformance][cuda]") {
  MIEN_NEEDS_CUDA();
  const Wanted wanted;
  const char* chosen = std::getenv("MIEN_CONFORMANCE_DTYPES");
  const std::string dtypes = chosen ? chosen : "f32,f64,bf16,f16";
  std::vector<Row> rows = conformance_rows();
  rows.insert(rows.end(), device_conformance_rows().begin(), device_conformance_rows().end());
  bool lost = false;  // after an illegal address nothing runs any more
  for (const Row& row : rows) {
    if (lost || !wanted.has(row.name)) continue;
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
      if (lost || ("," + dtypes + ",").find(std::string(",") + name(dtype) + ",") == std::string::npos) continue;
      std::map<Level, Tally> tallies;
      int failures = 0;
      for (int number = wanted.first; number < wanted.last && failures < 3 && !lost; ++number) {
        const auto seed = static_cast<std::uint64_t>(seed_base()) * 1000003u + static_cast<std::uint64_t>(number);
        Dice dice(seed);
        const Problem made = row.make(dice, number);
        if (made.wide && item_size(dtype) == 2) continue;
        Problem p = in_dtype(row, made, dtype);
        const bool exact = p.exact;
        const Expected e = expect(row, p, dice);
        for (const Level level : {Level::cuda, Level::cuda_library}) {
          const KernelEntry* entry = row.list.at(level);
          if (!entry) continue;
          p.exact = exact && level == Level::cuda;  // cuDNN has ways that round whole numbers, too
          INFO(row.name << " at " << name(level) << ": " << describe(p) << "\n  again: MIEN_CONFORMANCE_SEED=" << seed_base() << " MIEN_CONFORMANCE_DTYPES=" << name(dtype)
                        << " MIEN_CONFORMANCE=" << row.name << ":" << number << " mien_tests \"[cuda]\"");
          const auto wrong = check_on_gpu(row, *entry, p, e, dtype, seed, number % 8 == 0, tallies[level]);
          if (wrong.empty()) continue;
          ++failures;
          lost = wrong.find("CUDA reports") != std::string::npos;
          FAIL_CHECK(wrong);
        }
      }
      for (const auto& [level, tally] : tallies) {
        std::cout << "conformance " << row.name << " " << name(level) << " " << name(dtype) << ": " << tally.compared << " compared, " << tally.declined
                  << " declined, worst error " << tally.worst << (failures ? " FAILED" : "");
        for (const auto& [reason, count] : tally.reasons) std::cout << "; " << count << "x " << reason;
        std::cout << std::endl;
      }
    }
  }
}

TEST_CASE("every fast kernel does what ref does", "[conformance]") {
  const Threads restore;
  const Wanted wanted;
  for (const Row& row : conformance_rows()) {
    if (!wanted.has(row.name)) continue;
    std::map<Level, Tally> tallies;
    int failures = 0;
    for (int number = wanted.first; number < wanted.last && failures < 5; ++number) {
      const auto seed = static_cast<std::uint64_t>(seed_base()) * 1000003u + static_cast<std::uint64_t>(number);
      Dice dice(seed);
      Problem p = row.make(dice, number);
      if (exact_in_bf16(number)) round_to_bf16(p);
      const Expected e = expect(row, p, dice);
      const bool threads = number % 31 == 30 || number % 8 == 0;
      for (const Level level : levels_here()) {
        // Scoped: a crash prints it too.
        INFO(row.name << " at " << name(level) << ": " << describe(p) << "\n  again: MIEN_CONFORMANCE_SEED=" << seed_base() << " MIEN_CONFORMANCE=" << row.name
                      << ":" << number << " mien_tests \"[conformance]\"");
        const KernelEntry* entry = row.list.at(level);
        if (!entry) continue;  // level amx has few
        for (const Precision precision : precisions(level, number)) {
          INFO("precision " << name(precision));
          const auto wrong = check(*entry, p, e, seed, threads, tallies[level], precision);
          if (wrong.empty()) continue;
          ++failures;
          FAIL_CHECK(wrong);
        }
      }
    }
    for (const auto& [level, tally] : tallies) {
      std::cout << "conformance " << row.name << " " << name(level) << ": " << tally.compared << " compared, " << tally.declined << " declined, worst error "
                << tally.worst;
      for (const auto& [reason, count] : tally.reasons) std::cout << "; " << count << "x " << reason;
      std::cout << "\n";
      // Two kernels on tiles take bf16 only, which these problems have not: amx_test.cpp and the test below compare them.
      const bool other_dtype = level == Level::amx && (row.list.fast == &KernelTable::packed_conv2d || row.list.fast == &KernelTable::conv2d_grad_input_add);
      if (wanted.everything() && !other_dtype) {
        INFO(row.name << " at " << name(level) << " declined every problem: it was never compared");
        CHECK(tally.compared > 0);
      }
    }
  }
}

// What bf16 maps are made of while training on a CPU with tiles; elsewhere these ops have them by way of f32.
TEST_CASE("fast kernels of bf16 maps do what ref does", "[conformance]") {
  const Threads restore;
  const Wanted wanted;
  std::map<std::string, int> compared;
  for (const Row& row : conformance_rows()) {
    if (!wanted.has(row.name)) continue;
    for (int number = wanted.first, failures = 0; number < wanted.last && failures < 5; ++number) {
      const auto seed = static_cast<std::uint64_t>(seed_base()) * 1000003u + static_cast<std::uint64_t>(number);
      Dice dice(seed);
      Problem made = row.make(dice, number);
      round_to_bf16(made);
      const Problem p = in_dtype(row, made, DType::bf16, true);
      std::optional<Expected> e;
      for (const Level level : levels_here()) {
        const KernelEntry* entry = level == Level::ref ? nullptr : row.list.at(level);
        if (!entry) continue;
        INFO(row.name << " at " << name(level) << ": " << describe(p) << "\n  again: MIEN_CONFORMANCE_SEED=" << seed_base() << " MIEN_CONFORMANCE=" << row.name << ":"
                      << number << " mien_tests \"fast kernels of bf16 maps do what ref does\"");
        const auto in = views(p.in);
        std::vector<View> out;
        for (const Output& o : p.out) out.push_back({nullptr, o.dtype, o.shape, strides_of(o.shape, o.order, dice)});
        if (entry->decline && entry->decline({in, out, p.params.data()})) continue;
        if (!e) e = expect(row, p, dice);
        Tally tally;
        const auto wrong = check(*entry, p, *e, seed, number % 8 == 0, tally, Precision::f32, tolerance_of(DType::bf16));
        compared[std::string(row.name) + (level == Level::amx ? " on tiles" : "")] += tally.compared;
        if (wrong.empty()) continue;
        ++failures;
        FAIL_CHECK(wrong);
      }
    }
  }
  for (const auto& [name, count] : compared) std::cout << "conformance of bf16 maps, " << name << ": " << count << " compared\n";
  if (!wanted.everything()) return;
  for (const char* name : {"batch_norm", "batch_norm_backward", "residual", "unary", "unary_backward", "binary", "concat", "copy", "max_pool2d", "max_pool2d_backward", "reduce"}) {
    INFO(name);
    CHECK(compared[name] > 0);
  }
  if (machine_cpu_level() < Level::amx) return;
  for (const char* name : {"conv2d on tiles", "conv2d_grad_input on tiles", "conv2d_grad_input_add on tiles", "conv2d_grad_weight on tiles"}) {
    INFO(name);
    CHECK(compared[name] > 0);
  }
}

namespace {

// Kernels with one mistake each, for y = 2x of ten values with a step of 2: what the harness must see.
const float* from(const KernelArgs& a) { return a.in[0].ptr<float>(); }
float* to(const KernelArgs& a) { return a.out[0].ptr<float>(); }
void twice(const KernelArgs& a) {
  for (std::int64_t i = 0; i < a.out[0].numel(); ++i) to(a)[i * a.out[0].stride(0)] = 2 * from(a)[i * a.in[0].stride(0)];
}
void leaves_the_last_out(const KernelArgs& a) {
  for (std::int64_t i = 0; i + 1 < a.out[0].numel(); ++i) to(a)[i * a.out[0].stride(0)] = 2 * from(a)[i * a.in[0].stride(0)];
}
void writes_between(const KernelArgs& a) {
  twice(a);
  to(a)[1] = 0;
}
void writes_before(const KernelArgs& a) {
  twice(a);
  to(a)[-1] = 0;
}
void is_a_little_off(const KernelArgs& a) {
  twice(a);
  to(a)[0] *= 1.0001f;
}
void depends_on_threads(const KernelArgs& a) {
  twice(a);
  if (num_threads() == 3) to(a)[0] = std::nextafter(to(a)[0], 100.f);
}
void ignores_the_stride(const KernelArgs& a) {
  twice(a);
  to(a)[2] = 2 * from(a)[1];
}

std::string verdict(void (*run)(const KernelArgs&)) {
  const KernelEntry entry{run};
  Dice dice(1);
  Problem p;
  p.in.emplace_back(Shape{10}, DType::f32, Order::stepped, dice);
  for (const auto o : p.in[0].offsets()) p.in[0].set(o, 1 + dice.uniform(0, 1));
  p.out.push_back({{10}, DType::f32, Order::stepped, {}});
  Expected e;
  e.values.push_back(Operand(Shape{10}, DType::f64, Order::contiguous, dice));
  std::int64_t i = 0;
  for (const auto o : p.in[0].offsets()) e.values[0].set(i++, 2 * p.in[0].get(o));
  Tally tally;
  return check(entry, p, e, 1, true, tally);
}

}  // namespace

TEST_CASE("the conformance harness sees a mistake when there is one", "[conformance]") {
  const Threads restore;
  CHECK(verdict(twice).empty());
  CHECK(verdict(leaves_the_last_out).find("nan") != std::string::npos);
  CHECK(verdict(leaves_the_last_out).find("element 9") != std::string::npos);
  CHECK(verdict(writes_between).find("outside of its elements") != std::string::npos);
  CHECK(verdict(writes_before).find("outside of its elements") != std::string::npos);
  CHECK(verdict(is_a_little_off).find("element 0") != std::string::npos);
  CHECK(verdict(depends_on_threads).find("3 threads") != std::string::npos);
  CHECK(verdict(ignores_the_stride).find("element 1") != std::string::npos);
}

// f64 is the reference's alone: a fast kernel that took it would read doubles as floats.
TEST_CASE("fast kernels decline f64", "[conformance]") {
  for (const Row& row : conformance_rows())
    for (int number = 1; number < 60; ++number) {
      Dice dice(static_cast<std::uint64_t>(number));
      const Problem p = row.make(dice, number);
      Operands in;
      bool floating = false;
      for (const auto& o : p.in) {
        in.push_back(widened(o, false, dice));
        floating = floating || is_floating(o.view().dtype);
      }
      const Operands out = make_outputs(p, true, dice);
      for (const auto& o : out) floating = floating || is_floating(o.view().dtype);
      if (!floating) continue;
      const auto in_views = views(in), out_views = views(out);
      const KernelArgs args{in_views, out_views, p.params.data(), nullptr};
      for (const Level level : levels_here()) {
        if (level == Level::ref || !row.list.at(level)) continue;
        const KernelEntry& entry = *row.list.at(level);
        INFO(row.name << " at " << name(level) << ", " << describe(p));
        REQUIRE(entry.decline != nullptr);
        REQUIRE(entry.decline(args) != nullptr);
      }
    }
}

TEST_CASE("average pooling of whole channels_last maps is fast: one pixel lies in both orders", "[conformance]") {
  const Shape map{2, 20, 5, 4}, pixel{2, 20, 1, 1};
  const View large{nullptr, DType::f32, map, channels_last_strides(map)}, small{nullptr, DType::f32, pixel, contiguous_strides(pixel)};
  PoolParams q;
  q.kernel = q.stride = {5, 4};
  for (const Row& row : conformance_rows())
    for (const Level level : {Level::base, Level::avx2, Level::avx512}) {
      const bool forward = std::string(row.name) == "avg_pool2d";
      if ((!forward && std::string(row.name) != "avg_pool2d_backward") || level > max_cpu_level()) continue;
      CHECK(row.list.at(level)->decline({{forward ? &large : &small, 1}, {forward ? &small : &large, 1}, &q}) == nullptr);
    }
}

}  // namespace mien::test

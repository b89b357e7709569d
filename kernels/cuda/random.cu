// Random tensors: element i of a stream is a function of (seed, stream, i) alone, i being the logical index, by the counter-based generator of
// tensor/generator.h: uniforms, masks and integers have the CPU's bits; normals differ where the two machines' logarithms and sines do.
#include <cmath>
#include <cstring>
#include <numbers>

#include "mien/kernels/cuda/convert.cuh"
#include "mien/kernels/cuda/elementwise.cuh"

namespace mien::cuda {
namespace {

__device__ __forceinline__ uint4 philox(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  uint4 c{static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), static_cast<std::uint32_t>(stream),
          static_cast<std::uint32_t>(stream >> 32)};
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c.x, p1 = std::uint64_t{0xCD9E8D57u} * c.z;
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c.y ^ k0, static_cast<std::uint32_t>(p1), static_cast<std::uint32_t>(p0 >> 32) ^ c.w ^ k1,
         static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

template <class T>
struct Random {
  std::uint64_t seed, stream;
  double a, b;
  T below;                  // uniform: what stands for values that rounding moved up to b
  T kept;                   // dropout
  std::int64_t low, range;  // integer
};

// Products and sums that the compiler must not contract: the CPU rounds both.
template <class T>
__device__ __forceinline__ T scaled(double a, double b, double v) {
  return static_cast<T>(__dadd_rn(a, __dmul_rn(b, v)));
}

// Elements 4 * group .. 4 * group + 3.
template <RandomKind K, class T>
__device__ __forceinline__ void four(const Random<T>& p, std::uint64_t group, T (&v)[4]) {
  if constexpr (K == RandomKind::uniform || K == RandomKind::dropout_mask) {
    const uint4 c = philox(p.seed, p.stream, group);
    const std::uint32_t words[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const double u = static_cast<double>(static_cast<float>(words[j] >> 8) * 0x1p-24f);
      if constexpr (K == RandomKind::uniform) {
        v[j] = store<T>(scaled<Compute<T>>(p.a, __dsub_rn(p.b, p.a), u));
        if (static_cast<double>(load(v[j])) >= p.b && p.a < p.b) v[j] = p.below;
      } else {
        v[j] = u >= p.a ? p.kept : store<T>(Compute<T>(0));
      }
    }
  } else {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const uint4 c = philox(p.seed, p.stream, 2 * group + static_cast<std::uint64_t>(pair));
      if constexpr (K == RandomKind::normal) {
        const double u = (static_cast<double>(c.x) + 1.0) * 0x1p-32;  // (0, 1]
        const double angle = 2.0 * std::numbers::pi * static_cast<double>(c.y) * 0x1p-32;
        const double radius = sqrt(-2.0 * log(u));
        double sine, cosine;
        sincos(angle, &sine, &cosine);
        v[2 * pair] = store<T>(scaled<Compute<T>>(p.a, p.b, __dmul_rn(radius, cosine)));
        v[2 * pair + 1] = store<T>(scaled<Compute<T>>(p.a, p.b, __dmul_rn(radius, sine)));
      } else {
        const auto pick = [&](std::uint32_t high, std::uint32_t low) {
          const std::uint64_t wide = (static_cast<std::uint64_t>(high) << 32) | low;
          return p.low + static_cast<std::int64_t>(__umul64hi(wide, static_cast<std::uint64_t>(p.range)));
        };
        v[2 * pair] = pick(c.x, c.y);
        v[2 * pair + 1] = pick(c.z, c.w);
      }
    }
  }
}

// `walk` goes in logical order. dense: the tensor is contiguous and aligned for Pack<T, 4>.
template <RandomKind K, class T>
__global__ void __launch_bounds__(block_threads) random_kernel(Random<T> p, const __grid_constant__ Walk<1, std::int64_t> walk, std::int64_t count, bool dense,
                                                               T* y) {
  const std::int64_t groups = (count + 3) / 4;
  for (std::int64_t group = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x; group < groups;
       group += static_cast<std::int64_t>(gridDim.x) * block_threads) {
    Pack<T, 4> values;
    four<K, T>(p, static_cast<std::uint64_t>(group), values.v);
    if (dense && 4 * group + 4 <= count) {
      reinterpret_cast<Pack<T, 4>*>(y)[group] = values;
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (4 * group + j < count) {
        std::int64_t o[1];
        walk.offsets(4 * group + j, o);
        y[o[0]] = values.v[j];
      }
  }
}

// The neighbour of b in T on the side of a.
template <class T>
T next_to(double b, double a) {
  if constexpr (is_half<T>) {
    const T from = convert<T>(b);
    if (load(from) == load(convert<T>(a))) return from;
    const bool down = a < b;
    unsigned short bits;
    std::memcpy(&bits, &from, sizeof bits);
    if ((bits & 0x7fffu) == 0) bits = down ? 0x8001u : 0x0001u;
    else bits = static_cast<unsigned short>(bits + ((bits & 0x8000u) != 0 ? (down ? 1 : -1) : (down ? -1 : 1)));
    T to;
    std::memcpy(static_cast<void*>(&to), &bits, sizeof bits);
    return to;
  } else {
    return std::nextafter(static_cast<T>(b), static_cast<T>(a));
  }
}

template <RandomKind K, class T>
void launch(const KernelArgs& args, const Random<T>& p) {
  const View& y = args.out[0];
  const std::int64_t count = y.numel();
  const auto walk = make_walk<1, std::int64_t>(y.shape, {y.strides});
  const bool dense = (walk.rank == 0 || (walk.rank == 1 && walk.step[0][0] == 1)) && aligned<T, 4>(y.ptr<T>());
  random_kernel<K, T><<<blocks_for((count + 3) / 4), block_threads, 0, stream(args)>>>(p, walk, count, dense, y.ptr<T>());
  check_launch("random");
}

void run_random(const KernelArgs& args) {
  const auto& p = args.get<RandomParams>();
  const View& y = args.out[0];
  if (y.numel() == 0) return;
  if (p.kind == RandomKind::integer) {
    if (y.dtype != DType::i64) throw DTypeError("random", std::string("integers are i64, got ") + name(y.dtype), "");
    const auto low = convert<std::int64_t>(p.a), high = convert<std::int64_t>(p.b);
    return launch<RandomKind::integer, std::int64_t>(args, {p.seed, p.stream, p.a, p.b, 0, 0, low, high - low});
  }
  dispatch_floats(y.dtype, "random", [&](auto t) {
    using T = typename decltype(t)::type;
    const Random<T> q{p.seed, p.stream, p.a, p.b, next_to<T>(p.b, p.a), convert<T>(1.0 / (1.0 - p.a)), 0, 0};
    switch (p.kind) {
      case RandomKind::uniform: return launch<RandomKind::uniform, T>(args, q);
      case RandomKind::normal: return launch<RandomKind::normal, T>(args, q);
      default: return launch<RandomKind::dropout_mask, T>(args, q);
    }
  });
}

}  // namespace

const KernelEntry random_entry = {run_random};

}  // namespace mien::cuda

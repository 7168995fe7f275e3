// Instructions that CUDA C++ has no name for, one line each, and the vector types they work on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {

/// Makes a value one that only its register has: the compiler would rather compute it again in every turn of a loop.
template <class V>
__device__ __forceinline__ V kept(V value) {
  static_assert(sizeof(V) == 4);
  asm volatile("" : "+r"(value));
  return value;
}

/// The same against the assembler, to which it comes through a shuffle. Not negative; by all lanes.
__device__ __forceinline__ int pinned(int value) {
  const int same = __shfl_sync(0xffffffffU, value, static_cast<int>(threadIdx.x % 32));
  __builtin_assume(same >= 0);
  return same;
}

/// What all lanes of a warp have, where the assembler knows that they do: in a register that they share.
__device__ __forceinline__ std::uint32_t uniform(std::uint32_t value) { return __reduce_or_sync(0xffffffffU, value); }

/// (a & mask) | bits of two constants, in one instruction where the compiler would take two.
__device__ __forceinline__ std::uint32_t and_or(std::uint32_t a, std::uint32_t mask, std::uint32_t bits) {
  std::uint32_t v;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(a), "r"(mask), "r"(bits));
  return v;
}

/// Where a pointer into shared memory points.
__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ uint4 load_shared(std::uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}

__device__ __forceinline__ std::uint32_t load_shared_word(std::uint32_t address) {
  std::uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ uint2 load_shared_pair(std::uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}
__device__ __forceinline__ void store_shared_word(std::uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ __forceinline__ void store_shared_pair(std::uint32_t address, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second) : "memory");
}
__device__ __forceinline__ void store_shared(std::uint32_t address, float a, float b, float c, float d) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}
__device__ __forceinline__ void store_shared(std::uint32_t address, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
/// 16 bytes that are read once: not kept in the first-level cache.
__device__ __forceinline__ uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

/// 8 bytes that other lanes read too.
__device__ __forceinline__ float2 load_cached(const float2* p) {
  float2 v;
  asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p));
  return v;
}

/// d += a b for 16 x 16 weights `a` and 16 x 8 factors `b`, summed in fp32. Lane 4 g + t holds of a: rows g and g + 8,
/// columns 2t, 2t + 1, 2t + 8 and 2t + 9; of b: the same columns as rows, column g; of d: rows g and g + 8, columns
/// 2t and 2t + 1 (PTX ISA, mma.m16n8k16).
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
template <>
__device__ __forceinline__ void mma<Half>(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                          std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<BFloat16>(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                              std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of 16-bit values from shared memory; lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(std::uint32_t (&m)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row));
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&m)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row));
}

/// The other way, matrices transposed: lane i names where column i % 8 of matrix i / 8 goes. From sm_90 on.
__device__ __forceinline__ void store_matrices_transposed(std::uint32_t row, std::uint32_t m0, std::uint32_t m1,
                                                          std::uint32_t m2, std::uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(m0), "r"(m1),
               "r"(m2), "r"(m3)
               : "memory");
}

/// 16 bytes from global to shared memory, behind the back of the registers; zeros where `valid` is false.
__device__ __forceinline__ void copy_async(std::uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  copy_async(shared_address(shared), global, valid);
}
/// The same of 4, 8 or 16 bytes; what is smaller than 16 other lanes may find in the first-level cache.
template <int kBytes>
__device__ __forceinline__ void copy_async(std::uint32_t shared, const void* global) {
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(global), "n"(kBytes));
  }
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
/// Waits for all but the last N groups of copies.
template <int N>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

/// Programmatic dependent launch: a kernel may start while the one before it still runs, and waits here before it
/// touches anything that one writes or reads. Before sm_90 kernels start one after the other anyway.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Two values rounded to T, the first in the low half.
template <class T>
__device__ __forceinline__ std::uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ std::uint32_t pack2<Half>(float low, float high) {
  const __half2 v = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&v);
}
template <>
__device__ __forceinline__ std::uint32_t pack2<BFloat16>(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&v);
}

template <class T>
__device__ __forceinline__ float2 unpack2(std::uint32_t v);
template <>
__device__ __forceinline__ float2 unpack2<Half>(std::uint32_t v) {
  return __half22float2(*reinterpret_cast<const __half2*>(&v));
}
template <>
__device__ __forceinline__ float2 unpack2<BFloat16>(std::uint32_t v) {
  return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000U)};
}

/// The larger of two pairs' first and second values; a NaN if one is.
template <class T>
__device__ __forceinline__ std::uint32_t larger2(std::uint32_t a, std::uint32_t b);
template <>
__device__ __forceinline__ std::uint32_t larger2<Half>(std::uint32_t a, std::uint32_t b) {
  std::uint32_t v;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
  return v;
}
template <>
__device__ __forceinline__ std::uint32_t larger2<BFloat16>(std::uint32_t a, std::uint32_t b) {
  std::uint32_t v;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
  return v;
}

/// One value, by the hardware's conversions (numeric.h has the same in portable code).
__device__ __forceinline__ float to_f32(float v) { return v; }
__device__ __forceinline__ float to_f32(Half v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ float to_f32(BFloat16 v) {
  return __uint_as_float(static_cast<std::uint32_t>(v.bits) << 16);
}

template <class T>
__device__ __forceinline__ T from_f32(float v);
template <>
__device__ __forceinline__ float from_f32<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ Half from_f32<Half>(float v) {
  return {__half_as_ushort(__float2half_rn(v))};
}
template <>
__device__ __forceinline__ BFloat16 from_f32<BFloat16>(float v) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
}

/// The value v becomes when it is stored as T.
template <class T>
__device__ __forceinline__ float rounded_f32(float v) {
  return to_f32(from_f32<T>(v));
}

/// Eight consecutive values, 16-byte aligned.
template <class T>
__device__ __forceinline__ void load8(const T* p, float (&v)[8]) {
  if constexpr (sizeof(T) == 4) {
    const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    const std::uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack2<T>(words[i]);
      v[2 * i] = pair.x;
      v[2 * i + 1] = pair.y;
    }
  }
}
/// Sixteen bytes of T.
template <class T>
__device__ __forceinline__ uint4 pack16(const float* v) {
  if constexpr (sizeof(T) == 4) {
    return {__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])};
  } else {
    return {pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7])};
  }
}

template <class T>
__device__ __forceinline__ void store8(T* p, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(p) = pack16<T>(v);
  if constexpr (sizeof(T) == 4) *reinterpret_cast<uint4*>(p + 4) = pack16<T>(v + 4);
}

/// The sum over a warp's lanes, in the same order in every lane.
template <class V>
__device__ __forceinline__ V warp_sum(V v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffU, v, step);
  return v;
}

/// An 8 x 8 matrix of 16-bit values, its rows become columns. Lane 4 g + t has columns 2t and 2t + 1 of row g.
__device__ __forceinline__ std::uint32_t transposed(std::uint32_t m) {
  std::uint32_t v;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(v) : "r"(m));
  return v;
}

/// 2^v by the hardware; zero where that is subnormal.
__device__ __forceinline__ float power_of_two(float v) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
  return power;
}
inline constexpr float kLog2E = 1.44269504F;
__device__ __forceinline__ float exponential(float v) { return power_of_two(v * kLog2E); }

}  // namespace nibble

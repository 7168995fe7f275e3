// What sm_90a adds, one line each: products of a warpgroup, barriers that count bytes, copies in bulk, clusters.
//
// A warpgroup is four warps. Its product is 64 rows of a, held in registers as mma.m16n8k16 has them, sixteen a warp,
// times N rows of b, which stand in shared memory: 64 columns of 16 bits to a line of 128 bytes, whose eight pieces
// stand at their number xor the line's number modulo 8 (PTX ISA, wgmma, "128-byte swizzling").
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace nibble {

/// Bytes of a line of b, and columns it has.
inline constexpr int kLineBytes = 128;
inline constexpr int kLineColumns = 64;

/// A description of lines in shared memory that begin at a multiple of eight of them. 32 bytes further, which is 2
/// more, are the next sixteen columns. `apart`: bytes to the lines that go on behind these, for `multiply_turned`.
__device__ __forceinline__ std::uint64_t describe_lines(std::uint32_t address, int apart = 0) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kEightLines = std::uint64_t{8 * kLineBytes / 16} << 32;
  return kSwizzle128 | kEightLines | static_cast<std::uint64_t>(apart / 16) << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits for all but the last N groups of products.
template <int N>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/// d = a b + d, or a b where `adds` is false, for N rows of b. Lane 4 g + t has of d: rows g and g + 8, columns
/// 8 i + 2t and 8 i + 2t + 1 as d[4 i .. 4 i + 3].
template <class T, int N>
__device__ __forceinline__ void multiply(float (&d)[N / 2], const std::uint32_t* a, std::uint64_t b, bool adds);
/// The same where rows of a stand in lines too.
template <class T, int N>
__device__ __forceinline__ void multiply_lines(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool adds);
/// The same where sixteen lines are b's columns, and hold its rows; 64 to a line.
template <class T, int N>
__device__ __forceinline__ void multiply_turned(float (&d)[N / 2], const std::uint32_t* a, std::uint64_t b, bool adds);

#define NIBBLE_8(d, i)                                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define NIBBLE_16(d, i) NIBBLE_8(d, i), NIBBLE_8(d, i + 8)
#define NIBBLE_32(d, i) NIBBLE_16(d, i), NIBBLE_16(d, i + 16)
#define NIBBLE_64(d, i) NIBBLE_32(d, i), NIBBLE_32(d, i + 32)
#define NIBBLE_40(d, i) NIBBLE_32(d, i), NIBBLE_8(d, i + 32)
#define NIBBLE_48(d, i) NIBBLE_32(d, i), NIBBLE_16(d, i + 32)
#define NIBBLE_128(d, i) NIBBLE_64(d, i), NIBBLE_64(d, i + 64)
#define NIBBLE_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NIBBLE_NAMES_32 \
  NIBBLE_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NIBBLE_NAMES_40 NIBBLE_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NIBBLE_NAMES_48 NIBBLE_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define NIBBLE_NAMES_64 \
  NIBBLE_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NIBBLE_NAMES_128                                                                         \
  NIBBLE_NAMES_64                                                                                \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"             \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define NIBBLE_PRODUCT(type, n, names, a, b, adds, turned)                                                     \
  "{.reg .pred p; setp.ne.b32 p, %" #adds ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
  " {" names "}, " a ", %" #b ", p, 1, 1, " turned ";}"
#define NIBBLE_MULTIPLY(name, turned, T, type, n, names, a0, a1, a2, a3, b, adds, sums)                         \
  template <>                                                                                                   \
  __device__ __forceinline__ void name<T, n>(float(&d)[n / 2], const std::uint32_t* a, std::uint64_t lines,     \
                                             bool accumulates) {                                                \
    asm volatile(NIBBLE_PRODUCT(type, n, names, "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}", b, adds, turned)    \
                 : sums(d, 0)                                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(lines), "r"(static_cast<int>(accumulates))); \
  }
#define NIBBLE_MULTIPLY_LINES(T, type, n, names, a, b, adds, sums)                                                \
  template <>                                                                                                     \
  __device__ __forceinline__ void multiply_lines<T, n>(float(&d)[n / 2], std::uint64_t rows, std::uint64_t lines, \
                                                       bool accumulates) {                                        \
    asm volatile(NIBBLE_PRODUCT(type, n, names, "%" #a, b, adds, "0, 0")                                          \
                 : sums(d, 0)                                                                                     \
                 : "l"(rows), "l"(lines), "r"(static_cast<int>(accumulates)));                                    \
  }
#define NIBBLE_MULTIPLIES(T, type)                                                                         \
  NIBBLE_MULTIPLY(multiply, "0", T, type, 32, NIBBLE_NAMES_16, 16, 17, 18, 19, 20, 21, NIBBLE_16)          \
  NIBBLE_MULTIPLY(multiply, "0", T, type, 64, NIBBLE_NAMES_32, 32, 33, 34, 35, 36, 37, NIBBLE_32)          \
  NIBBLE_MULTIPLY(multiply, "0", T, type, 128, NIBBLE_NAMES_64, 64, 65, 66, 67, 68, 69, NIBBLE_64)         \
  NIBBLE_MULTIPLY(multiply, "0", T, type, 256, NIBBLE_NAMES_128, 128, 129, 130, 131, 132, 133, NIBBLE_128) \
  NIBBLE_MULTIPLY(multiply_turned, "1", T, type, 64, NIBBLE_NAMES_32, 32, 33, 34, 35, 36, 37, NIBBLE_32)   \
  NIBBLE_MULTIPLY(multiply_turned, "1", T, type, 80, NIBBLE_NAMES_40, 40, 41, 42, 43, 44, 45, NIBBLE_40)   \
  NIBBLE_MULTIPLY(multiply_turned, "1", T, type, 96, NIBBLE_NAMES_48, 48, 49, 50, 51, 52, 53, NIBBLE_48)   \
  NIBBLE_MULTIPLY(multiply_turned, "1", T, type, 128, NIBBLE_NAMES_64, 64, 65, 66, 67, 68, 69, NIBBLE_64)  \
  NIBBLE_MULTIPLY_LINES(T, type, 64, NIBBLE_NAMES_32, 32, 33, 34, NIBBLE_32)
NIBBLE_MULTIPLIES(Half, "f16")
NIBBLE_MULTIPLIES(BFloat16, "bf16")
#undef NIBBLE_MULTIPLIES
#undef NIBBLE_MULTIPLY_LINES
#undef NIBBLE_MULTIPLY
#undef NIBBLE_PRODUCT
#undef NIBBLE_NAMES_128
#undef NIBBLE_NAMES_64
#undef NIBBLE_NAMES_48
#undef NIBBLE_NAMES_40
#undef NIBBLE_NAMES_32
#undef NIBBLE_NAMES_16
#undef NIBBLE_128
#undef NIBBLE_64
#undef NIBBLE_48
#undef NIBBLE_40
#undef NIBBLE_32
#undef NIBBLE_16
#undef NIBBLE_8

/// Takes registers of what the block's warpgroups have together, or gives them back: a multiple of eight for each
/// thread, more or fewer than before. By all threads of a warpgroup.
template <int kCount, bool kMore>
__device__ __forceinline__ void set_registers() {
  if constexpr (kMore) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
  }
}

/// By so many of a block's threads, whole warps, at its barrier of a number that is not 0, which is __syncthreads'.
template <int kThreads>
__device__ __forceinline__ void meet_at(int number) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(kThreads) : "memory");
}
/// By all threads of a block's warpgroup number `group`.
__device__ __forceinline__ void meet_group(int group) { meet_at<128>(group + 1); }

// A barrier is eight bytes of shared memory. Its phase ends when as many have arrived as it was made for, and all
// bytes that were announced have come; `parity` is that of the phase that is waited for, 0 at first.
__device__ __forceinline__ void make_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Between what a block did in shared memory, before it meets, and what the copy engine does there.
__device__ __forceinline__ void let_copies_follow() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Makes barriers that were made known to everybody, the copy engine and other blocks of the cluster too.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  let_copies_follow();
}
__device__ __forceinline__ void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// At another block's barrier, at an address that `in_block` gave. What this one wrote may be seen there later: a
/// release for the cluster would be a fence of the whole GPU.
__device__ __forceinline__ void arrive_there(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive_announcing(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait(std::uint32_t barrier, int parity) {
  asm volatile(
      "{.reg .pred p; again: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%0], %1; @!p bra again;}" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
}
/// For what other blocks of the cluster have written.
__device__ __forceinline__ void wait_for_cluster(std::uint32_t barrier, int parity) {
  asm volatile(
      "{.reg .pred p; again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1; @!p bra again;}" ::
          "r"(barrier),
      "r"(parity)
      : "memory");
}

/// A multiple of 16 bytes, to shared memory; the barrier counts them.
__device__ __forceinline__ void copy_bulk(std::uint32_t shared, const void* global, int bytes, std::uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}

/// Counts one more in memory, and returns how many there were: what this thread, and those that it has met, wrote
/// before can be read by whoever counts later.
__device__ __forceinline__ int count_in_memory(int* counter) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

/// By all threads of the cluster, which meet. What they wrote before may be seen later.
__device__ __forceinline__ void come_to_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_for_blocks() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ int block_of_cluster() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// Where what stands at `address` in this block stands in another of the cluster.
__device__ __forceinline__ std::uint32_t in_block(std::uint32_t address, int block) {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
  return there;
}
/// Sends two values to another block, at an address that `in_block` gave; its barrier counts their eight bytes.
__device__ __forceinline__ void send_there(std::uint32_t address, float first, float second, std::uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(address),
               "f"(first), "f"(second), "r"(barrier)
               : "memory");
}
/// The same with four values.
__device__ __forceinline__ void send_there(std::uint32_t address, float a, float b, float c, float d,
                                           std::uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
      "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
      : "memory");
}

}  // namespace nibble

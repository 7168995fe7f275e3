// The loops for AVX-512 with BF16, VBMI and VNNI: bf16 activations are multiplied as they are, by weights rounded to
// bf16.
#include "kernels/cpu/targets.h"

#if defined(__x86_64__)
// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/bytes_vnni.h"

#include "kernels/cpu/operand.h"
#include "kernels/cpu/operand_bf16.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
constexpr int kFusedColumns[kFusedRows] = {4, 4, 4, 4};

template <class T>
using OperandOf = std::conditional_t<std::is_same_v<T, BFloat16>, Bf16x32, F32x32>;
template <class T>
using CodeOperandOf = OperandOf<T>;
template <class Layout, class T>
using CodeOperandOfOne = OperandOf<T>;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

namespace nibble {

constinit const CpuKernels kAvx512Bf16Kernels = make_kernels();

}  // namespace nibble

#endif

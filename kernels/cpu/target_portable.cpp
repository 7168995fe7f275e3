// The loops for any machine, with what the compiler assumes of it.
#include "kernels/cpu/targets.h"

// In this order: each builds on the one before.
#include "kernels/cpu/simd_portable.h"

#include "kernels/cpu/bytes_portable.h"

#include "kernels/cpu/operand.h"

namespace nibble {
namespace {

constexpr int kTileRows = 2;
constexpr int kTileColumns = 2;
/// Rows of w at once for 1, 2, ... rows of x.
template <class Layout, class Operand>
constexpr int kFusedColumns[kFusedRows] = {kIsDense<Layout> ? 4 : 1, 1, 1, 1};

template <class T>
using OperandOf = F32x32;
template <class Layout, class T>
using CodeOperandOf = OperandOf<T>;
template <class Layout, class T>
using CodeOperandOfOne = OperandOf<T>;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

namespace nibble {

constinit const CpuKernels kPortableKernels = make_kernels();

}  // namespace nibble

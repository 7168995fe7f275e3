// The tables that target_*.cpp define.
#pragma once

#include "kernels/cpu/kernels.h"

namespace nibble {

extern const CpuKernels kPortableKernels;
#if defined(__x86_64__)
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512Bf16Kernels;
extern const CpuKernels kAmxKernels;
#endif

}  // namespace nibble

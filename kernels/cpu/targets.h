// The tables that target_*.cpp define, of which a build may have some: CMakeLists.txt, NIBBLE_CPU_TARGETS.
#pragma once

#include "kernels/cpu/kernels.h"

namespace nibble {

extern const CpuKernels kPortableKernels;
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512VnniKernels;
extern const CpuKernels kAvx512Bf16Kernels;
extern const CpuKernels kAmxKernels;

}  // namespace nibble

#include "kernels/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <string>

#include "kernels/cpu/targets.h"
#include "nibble/error.h"

namespace nibble {
namespace {

struct TargetRow {
  CpuTarget target;
  std::string_view name;
  const CpuKernels* kernels;
  bool (*available)();
};

#if defined(__x86_64__)
/// F16C came before AVX2 in every family of processors, and not every compiler can ask for it.
[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
[[maybe_unused]] bool has_avx512_bf16() {
  return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}

/// Whether Linux lets this process have tiles, for which it has to be asked: since 5.16, arch_prctl(2)'s
/// ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
[[maybe_unused]] bool has_amx() {
  // CPUID, leaf 7: not every compiler knows these names.
  constexpr unsigned kBf16 = 1U << 22, kTiles = 1U << 24, kInt8 = 1U << 25, kAll = kBf16 | kTiles | kInt8;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!has_avx512_bf16() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kAll) != kAll) return false;
  static const bool may = may_use_tiles();
  return may;
}
#endif

constexpr TargetRow kTargets[] = {
    {CpuTarget::kPortable, "portable", &kPortableKernels, [] { return true; }},
#ifdef NIBBLE_HAS_AVX2
    {CpuTarget::kAvx2, "avx2", &kAvx2Kernels, has_avx2},
#endif
#ifdef NIBBLE_HAS_AVX512
    {CpuTarget::kAvx512, "avx512", &kAvx512Kernels, has_avx512},
#endif
#ifdef NIBBLE_HAS_AVX512VNNI
    {CpuTarget::kAvx512Vnni, "avx512-vnni", &kAvx512VnniKernels, has_avx512_vnni},
#endif
#ifdef NIBBLE_HAS_AVX512BF16
    {CpuTarget::kAvx512Bf16, "avx512-bf16", &kAvx512Bf16Kernels, has_avx512_bf16},
#endif
#ifdef NIBBLE_HAS_AMX
    {CpuTarget::kAmx, "amx", &kAmxKernels, has_amx},
#endif
};

}  // namespace

std::string_view to_string(CpuTarget target) {
  for (const TargetRow& row : kTargets) {
    if (row.target == target) return row.name;
  }
  return "unknown";
}

std::vector<CpuTarget> available_targets() {
  std::vector<CpuTarget> targets;
  for (const TargetRow& row : kTargets) {
    if (row.available()) targets.push_back(row.target);
  }
  return targets;
}

CpuTarget fastest_target() {
  const std::vector<CpuTarget> targets = available_targets();
#if defined(__x86_64__)
  const bool has_words = std::ranges::find(targets, CpuTarget::kAvx512Vnni) != targets.end();
  if (targets.back() == CpuTarget::kAvx512Bf16 && has_words && __builtin_cpu_is("intel")) return CpuTarget::kAvx512Vnni;
#endif
  return targets.back();
}

CpuTarget parse_cpu_target(std::string_view name) {
  std::string names;
  for (const CpuTarget target : available_targets()) {
    if (to_string(target) == name) return target;
    names.append(names.empty() ? "" : ", ").append(to_string(target));
  }
  throw Error(ErrorKind::kInvalidArgument,
              "CPU target: expected one that this machine has (" + names + "), found '" + std::string(name) + "'");
}

const CpuKernels& cpu_kernels(CpuTarget target) {
  for (const TargetRow& row : kTargets) {
    if (row.target == target && row.available()) return *row.kernels;
  }
  throw Error(ErrorKind::kUnsupported, "instruction set " + std::string(to_string(target)) +
                                           ": expected a machine that has it, found one that has not");
}

}  // namespace nibble

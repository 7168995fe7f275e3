// What tests of verbs run on: every instruction set of this CPU, and the GPU where there is one.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <ostream>

#include "kernels/cpu/backend.h"
#include "tests/devices.h"
#include "tests/kernels/matrix.h"

namespace nibble {

struct Machine {
  std::string name;  ///< letters, digits and underscores
  Device device;
  std::function<std::unique_ptr<Backend>(int threads)> backend;  ///< a GPU takes no notice of `threads`

  bool bf16_factors = false;  ///< whether this CPU multiplies bf16: in pairs, or in AMX's tiles
  bool words = false;         ///< whether few rows of 16 bits meet all codes as words
  bool tiles = false;         ///< whether long segments go through tiles: of registers or AMX, or a GPU's tensor cores
  bool amx = false;           ///< whether those are AMX's

  /// Whether factors have 16 bits: in a GPU's tensor cores, and in AVX512-BF16.
  bool rounds_factors(DType dtype) const {
    return device == Device::kCuda ? dtype != DType::kF32 : bf16_factors && dtype == DType::kBF16;
  }

  /// What a weight may be off by: it, or its level before its absmax, is rounded once where factors are; on a GPU its
  /// level, its absmax and their product may be.
  double weight_error(DType dtype, double weight) const {
    if (rounds_factors(dtype)) return (device == Device::kCuda ? 3 : 1) * rounding(dtype, weight);
    return std::fabs(weight) * pair_error(dtype);
  }

  /// Whether few rows are multiplied as whole numbers: in 16 bits, where bf16 has instructions in fp16 by 4 bits.
  bool whole_numbers(DType dtype, const Weight& weight) const {
    const bool has_four_bits = has_levels(weight) || std::holds_alternative<Int4Group<SymmetricZero>>(weight) ||
                               std::holds_alternative<Int4Group<ZeroPoints>>(weight);
    return (words && dtype != DType::kF32) || (bf16_factors && dtype == DType::kF16 && has_four_bits);
  }
  static bool has_levels(const Weight& weight) {
    return std::holds_alternative<Lut4<F32Scale>>(weight) || std::holds_alternative<Lut4<NestedScale>>(weight);
  }

  /// Whether rows of long segments are multiplied by a weight as digits: where there are instructions for bytes, and
  /// none for numbers of the dtype that are as fast.
  bool digits(DType dtype, const Weight& weight) const {
    return (words || (bf16_factors && dtype != DType::kBF16)) && std::holds_alternative<Int8Row>(weight);
  }

  /// Whether long segments attend in tiles.
  bool attends_in_tiles(DType dtype) const {
    return device == Device::kCuda || amx || (bf16_factors && dtype == DType::kBF16);
  }

  /// What a number of a row of x may be off by as digits, beside the largest of its 512 columns, or of its row, which
  /// becomes at least (1 - 2^-7) 2^22 in fp32, and 2^14 in 16 bits: half of one, and as little again as sums of digits
  /// are rounded by that are larger than those of the numbers.
  double digit_error(DType dtype, double largest) const {
    return largest * (dtype == DType::kF32 ? 0x1p-23 : 0x1p-15) / (1 - 0x1p-6);
  }

  /// What a number of a row of x may be off by: of eight that become whole numbers together the largest is at least
  /// 2^13. Digits have more.
  double factor_error(DType dtype, const Weight& weight, double largest) const {
    if (whole_numbers(dtype, weight)) return largest * 0x1p-14;
    return digits(dtype, weight) ? digit_error(dtype, largest) : 0;
  }

  /// The same of a level of 4 bits, relative to it: nf4's are no whole numbers.
  double level_error(DType dtype, const Weight& weight) const {
    return has_levels(weight) && whole_numbers(dtype, weight) ? 0x1p-12 : 0;
  }

  /// In AMX's tiles two numbers of bf16 stand for one that is multiplied in fp16: what they leave of a weight or a
  /// probability is below 2^-17 of it, and the product of the lesser two, which is left out, below 2^-16.
  double pair_error(DType dtype) const { return amx && dtype == DType::kF16 ? 0x3p-17 : 0; }

  /// The same of the probabilities that attention multiplies values by: in tensor cores, and in tiles.
  double probability_error(DType dtype, double probability) const {
    return attends_in_tiles(dtype) && rounds_factors(dtype) ? rounding(dtype, probability)
                                                            : probability * pair_error(dtype);
  }

  /// What adding up `terms` in fp32 may cost, relative to the sum of their magnitudes. The CPU has at least 16 lanes,
  /// and an addition costs half a unit in the last place. On a GPU and in tiles of registers one lane may add all of
  /// them; a tensor core cuts off 16 products and their sum at the last place of the largest, which is no worse. To a
  /// sum in AMX's tiles products are added 32 at a time; those of fp32 have six parts, and what is left out of them is
  /// below 2^-23.
  double sum_error(std::size_t terms) const {
    const int share = amx ? 32 / 6 : tiles ? 2 : 16;
    return (static_cast<double>(terms) / share + 8) * 0x1p-23;
  }
};

/// How GoogleTest shows it.
inline void PrintTo(const Machine& machine, std::ostream* out) { *out << machine.name; }

inline std::vector<Machine> machines() {
  std::vector<Machine> machines;
  for (const CpuTarget target : available_targets()) {
    std::string name(to_string(target));
    std::erase(name, '-');
    machines.push_back({name, Device::kCpu,
                        [target](int threads) { return std::make_unique<CpuBackend>(threads, target); },
                        target == CpuTarget::kAvx512Bf16 || target == CpuTarget::kAmx,
                        target == CpuTarget::kAvx512Vnni || target == CpuTarget::kAmx, target != CpuTarget::kPortable,
                        target == CpuTarget::kAmx});
  }
  if (has_cuda())
    machines.push_back({"cuda", Device::kCuda, [](int) { return make_cuda_backend(); }, false, false, true, false});
  return machines;
}

/// A test of one machine and compute dtype.
class VerbTest : public testing::TestWithParam<std::tuple<Machine, DType>> {
 protected:
  const Machine& machine() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

inline auto machines_and_dtypes() {
  return testing::Combine(testing::ValuesIn(machines()), testing::ValuesIn(kComputeDTypes));
}

inline std::string verb_test_name(const testing::TestParamInfo<std::tuple<Machine, DType>>& info) {
  return std::get<0>(info.param).name + "_" + std::string(to_string(std::get<1>(info.param)));
}

/// A test of one machine, compute dtype and layout.
class LayoutVerbTest : public testing::TestWithParam<std::tuple<Machine, DType, WeightCase>> {
 protected:
  const Machine& machine() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  const WeightCase& weight_case() const { return std::get<2>(GetParam()); }
};

inline auto machines_dtypes_and(std::span<const WeightCase> weight_cases) {
  return testing::Combine(testing::ValuesIn(machines()), testing::ValuesIn(kComputeDTypes),
                          testing::ValuesIn(weight_cases.begin(), weight_cases.end()));
}

inline std::string layout_verb_test_name(const testing::TestParamInfo<std::tuple<Machine, DType, WeightCase>>& info) {
  const auto& [machine, dtype, weight_case] = info.param;
  std::string name = machine.name + "_" + std::string(to_string(dtype)) + "_" + std::string(weight_case.name);
  std::erase(name, '-');
  return name;
}

}  // namespace nibble
